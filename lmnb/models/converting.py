"""Conversions in a process of their own, which takes the memory and the time: `convert`.

`python -m lmnb.models.converting` is that process. It prints a JSON object a line: `progress`, then
`done`, or the `error`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import msgspec

from lmnb.errors import InvalidModel, InvalidRequest, LmnbError
from lmnb.models.convert import FileType, convert_bert, parse_file_type
from lmnb.models.sources.files import exclusive

_MODULE = "lmnb.models.converting"
_NAME = re.compile(r"(?:(?P<publisher>\w[\w.-]*)/)?(?P<name>\w[\w.-]*)")
_IN_CACHE = re.compile(r"models--(?P<publisher>[^/]+?)--(?P<name>[^/]+)/snapshots/[^/]+$")


class _Conversion(msgspec.Struct):
    folder: Path
    target: Path
    name: str
    file_type: FileType


async def convert(
    home: Path, folder: Path, *, name: str | None = None, file_type: str = "F16"
) -> AsyncGenerator[float, None]:
    """Make a GGUF among the models of `home` of the BERT in `folder`; says 0 to 1 meanwhile.

    Closing the generator ends the conversion without a trace. What `name` and `file_type` mean and
    what is refused: see `target_of` and `convert_bert`.
    """
    async with exclusive(home, str(target_of(home, folder, name, file_type))):
        # Once more: meanwhile somebody else may have made it.
        target = target_of(home, folder, name, file_type)
        async with aclosing(_run(home, folder, target, parse_file_type(file_type))) as fractions:
            async for fraction in fractions:
                yield fraction


async def _run(
    home: Path, folder: Path, target: Path, file_type: FileType
) -> AsyncGenerator[float, None]:
    job = _Conversion(folder, target, target.parent.name, file_type)
    target.parent.mkdir(parents=True, exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", _MODULE, msgspec.json.encode(job, enc_hook=str).decode()),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            said = json.loads(line)
            if error := said.get("error"):
                raise LmnbError.from_dict(error)
            if "done" in said:
                return
            yield said["progress"]
        raise InvalidModel("The conversion ended before it was done: see the server's log.")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        _tidy(target, home / "models")


def target_of(home: Path, folder: Path, name: str | None, file_type: str) -> Path:
    """Where the model goes: `models/publisher/name/name.F16.gguf`.

    `name` is `name` or `publisher/name`; default that of the folder, or of the repository of a
    folder in the Hugging Face cache. The publisher is `local` where nothing says another.

    Raises
    ------
    InvalidRequest
        The folder is none, the name cannot be one, or there is such a model.
    InvalidModel
        The type is unknown.
    """
    if not folder.is_dir():
        raise InvalidRequest(f"There is no folder {folder}.", param="folder")
    parsed = parse_file_type(file_type)
    found = _NAME.fullmatch(name) if name else _IN_CACHE.search(folder.as_posix())
    if name and not found:
        raise InvalidRequest(
            f"{name!r} cannot be the name of a model.", hint="Such as owner/name.", param="name"
        )
    last = found["name"] if found else re.sub(r"[^\w.-]", "-", folder.name).lstrip(".-")
    publisher = (found and found["publisher"]) or "local"
    if not last:
        raise InvalidRequest("The folder has no name.", hint="Give the model one.", param="name")
    target = home / "models" / publisher / last / f"{last}.{parsed}.gguf"
    if target.exists():
        raise InvalidRequest(
            f"There is {target} already.", hint="Remove it, or choose another name.", param="name"
        )
    return target


def _tidy(target: Path, root: Path) -> None:
    """Of a conversion that did not come to its end nothing stays, empty folders neither."""
    if not target.exists():
        target.with_name(target.name + ".part").unlink(missing_ok=True)
    folder = target.parent
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def main() -> None:
    """Entry point of the process."""
    job = msgspec.json.decode(sys.argv[1], type=_Conversion, dec_hook=lambda kind, text: kind(text))

    def progress(fraction: float) -> None:
        _say({"progress": fraction})

    try:
        convert_bert(
            job.folder, job.target, name=job.name, file_type=job.file_type, on_progress=progress
        )
        _say({"done": True})
    except LmnbError as error:
        _say({"error": error.to_dict()})
    except Exception as error:  # noqa: BLE001 - whatever odd files bring up
        why = f"{job.folder} cannot be converted: {error!r}."
        _say({"error": InvalidModel(why).to_dict()})


def _say(data: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(data) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
