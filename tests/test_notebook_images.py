"""What `--image` takes."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import IPython.display
import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure
from pictures import picture

from lmnb.errors import InvalidRequest
from lmnb.notebook.images import load
from lmnb.notebook.turns import Picture

PNG = picture(1)


def pixels(found: Picture) -> Any:
    return np.asarray(PIL.Image.open(io.BytesIO(found.data)))


@pytest.fixture
def address() -> Iterator[str]:
    """A web server with one picture."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            self.wfile.write(PNG)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_files_paths_and_bytes_are_sent_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a b.png"
    file.write_bytes(PNG)
    for found in (
        load(str(file), {}),
        load("x", {"x": file}),
        load("x", {"x": str(file)}),
        load("x", {"x": PNG}),
        load("x", {"x": bytearray(PNG)}),
        load("x", {"x": IPython.display.Image(PNG)}),  # type: ignore[no-untyped-call]
    ):
        assert found == Picture("image/png", PNG)


def test_an_address_is_fetched(address: str) -> None:
    assert load(f"{address}/a.png", {}).data == PNG
    with pytest.raises(InvalidRequest, match="404"):
        load(f"{address}/b.png", {})


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp"])
def test_kinds_are_told_by_their_content(kind: str) -> None:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (3, 2), "red").save(buffer, kind)
    assert load("x", {"x": buffer.getvalue()}).media_type == f"image/{kind}"


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "P"])
def test_pictures_of_pillow(mode: str) -> None:
    image = PIL.Image.new("RGB", (3, 2), "red").convert(mode)
    shown = PIL.Image.open(io.BytesIO(load("x", {"x": image}).data)).convert("RGB")
    assert np.array_equal(np.asarray(shown), np.asarray(image.convert("RGB")))


def test_figures_of_matplotlib() -> None:
    figure = Figure(figsize=(2, 1))
    axes = figure.add_subplot()
    axes.plot([1, 2], [3, 4])
    found = load("x", {"x": figure})
    assert found.media_type == "image/png"
    assert len(np.unique(pixels(found).reshape(-1, 4), axis=0)) > 2
    assert load("x", {"x": axes}).data == found.data


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_arrays(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape)
    assert np.array_equal(pixels(load("x", {"x": values})), values.squeeze())
    fractions = values / 255
    assert np.array_equal(pixels(load("x", {"x": fractions})), values.squeeze())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"no picture", "no picture of a known kind"),
        (3, "of the type int"),
        (np.zeros((2, 2, 7)), r"shape \(2, 2, 7\)"),
        (np.zeros((0, 2)), r"shape \(0, 2\)"),
        ("missing.png", "neither a variable nor a file"),
    ],
)
def test_what_is_no_picture(value: object, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        load("x", {"x": value})
