"""What this machine can compute on: `python -m lmnb.engine.devices` prints it as JSON.

It runs as a process of its own, because the server never loads llama.cpp.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from pathlib import Path

import msgspec

from lmnb.engine import native
from lmnb.engine.config import Device

_PIN = "llama-cpp-python==0.3.36"


class Report(msgspec.Struct, frozen=True):
    """The machine's devices, and the GPU this build leaves unused, if there is one.

    `install_hint` is the command that installs a build for that GPU, `hint` a sentence with it.
    """

    devices: tuple[Device, ...]
    supports_gpu_offload: bool
    gpu_present: str | None
    install_hint: str | None
    hint: str | None
    llama_cpp: str
    system_info: str


def report() -> Report:
    """Ask ggml for its devices and the system for a GPU ggml cannot see."""
    native.init(lambda text: print(text, file=sys.stderr))  # noqa: T201
    offload = native.supports_gpu_offload()
    name, flag = (None, None) if offload else present_gpu()
    command = None
    if flag is not None:
        command = f"CMAKE_ARGS='-D{flag}=on' pip install --force-reinstall --no-cache-dir '{_PIN}'"
    return Report(
        devices=native.devices(),
        supports_gpu_offload=offload,
        gpu_present=name,
        install_hint=command,
        hint=command
        and f"llama.cpp was built without support for the {name} here; install one with it: {command}",
        llama_cpp=importlib.metadata.version("llama-cpp-python"),
        system_info=native.system_info().strip(),
    )


def present_gpu(root: Path = Path("/")) -> tuple[str | None, str | None]:
    """A GPU of this machine, and the CMake switch of the llama.cpp backend for it.

    Seen by its driver: the files a driver makes are there only when it has found its device.
    """
    nvidia = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    if nvidia:
        for line in nvidia[0].read_text(errors="replace").splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip(), "GGML_CUDA"
        return "NVIDIA GPU", "GGML_CUDA"
    if (root / "dev/nvidiactl").exists() and shutil.which("nvidia-smi"):
        return "NVIDIA GPU", "GGML_CUDA"
    if (root / "dev/kfd").exists():
        return "AMD GPU", "GGML_HIP"
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "Apple GPU", "GGML_METAL"
    return None, None


def main() -> None:
    """Entry point."""
    # llama.cpp's log goes to stdout through `native.log`; the report is the last line.
    print(msgspec.json.encode(report()).decode())  # noqa: T201


if __name__ == "__main__":
    main()
