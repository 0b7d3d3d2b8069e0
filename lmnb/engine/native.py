"""The door to llama.cpp: the only module that imports the bindings.

Everything here runs in a worker process. llama.cpp answers wrong use with
`abort()`, so callers check what they pass; the reasons stand beside the checks.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as _bindings
from numpy.typing import NDArray

from lmnb.engine.config import Device
from lmnb.engine.gguf import Header
from lmnb.errors import EngineCrashed, ModelLoadFailed, NotSupported

L: Any = _bindings

# Symbols of ggml are reached through libllama's handle. Opening libggml by its
# path would map a second copy of it with globals of its own: in wheels the
# versioned names are copies, not links.
_lib: Any = L._lib  # noqa: SLF001

OUT_OF_MEMORY = re.compile(
    r"failed to (?:re)?allocate|cannot allocate memory|out of (?:device )?memory|cudaMalloc|unable to allocate|bad_alloc"
    r"|ErrorOutOfDeviceMemory|insufficient memory"
    r"|mem_buffer != NULL",  # ggml's assertion after an allocation that failed (ggml_init)
    re.IGNORECASE,
)
"""What the backends of ggml and the C++ library say when memory runs out."""

_FLOATS = frozenset({0, 1})
"""ggml's numbers of f32 and f16."""
_LOG_LEVEL_DEBUG, _LOG_LEVEL_ERROR = 1, 4
_memory_view = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)
_WRITABLE = 0x200
"""CPython's PyBUF_WRITE."""
_keep_alive: list[Any] = []  # ctypes callbacks must outlive their registration


class LogRing:
    """The last lines llama.cpp logged. They are the only text behind a NULL result."""

    def __init__(self, size: int = 200) -> None:
        self.lines: deque[tuple[int, str]] = deque(maxlen=size)
        self._partial = ""
        self._level = 0

    def write(self, level: int, text: bytes | None, _data: object) -> None:
        """Take a fragment; llama.cpp continues a line with level CONT (5)."""
        if level != 5:
            self._level = level
        if self._level <= _LOG_LEVEL_DEBUG:
            return
        self._partial += (text or b"").decode("utf-8", "replace")
        *whole, self._partial = self._partial.split("\n")
        for line in whole:
            self.lines.append((self._level, line))
            print(line, flush=self._level >= _LOG_LEVEL_ERROR)  # noqa: T201  (stdout is the worker's log)

    def errors(self) -> list[str]:
        """The error lines, oldest first."""
        return [line for level, line in self.lines if level == _LOG_LEVEL_ERROR and line.strip()]

    def take_errors(self) -> list[str]:
        """`errors`, which are forgotten with this."""
        found = self.errors()
        self.lines.clear()
        return found

    def last_error(self) -> str:
        """The last error line without the function it is from."""
        lines = [line for line in self.errors() if not line.startswith("hint:")]
        return lines[-1].split(": ", 1)[-1].strip().rstrip(".") if lines else "no reason was given"


log = LogRing()


def init(on_abort: Callable[[str], None]) -> None:
    """Initialise llama.cpp once per process.

    `on_abort` is called with the text of a failed assertion just before the process dies.
    """
    _check_bindings()
    log_callback = L.llama_log_callback(log.write)
    # Installing an abort callback also spares the slow backtrace ggml would start gdb for.
    abort_type = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
    abort_callback = abort_type(lambda text: on_abort((text or b"").decode("utf-8", "replace")))
    _keep_alive.extend([log_callback, abort_callback])
    L.llama_log_set(log_callback, ctypes.c_void_p(None))
    _lib.ggml_set_abort_callback.argtypes = [abort_type]
    _lib.ggml_set_abort_callback.restype = ctypes.c_void_p
    _lib.ggml_set_abort_callback(abort_callback)
    L.llama_backend_init()
    _return_large_blocks()


def _return_large_blocks() -> None:
    """Have glibc give large blocks back to the system when they are freed.

    By itself it stops doing so after the first, and a buffer that grows leaves holes of its former
    sizes: a third of an embedding model's memory.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_mmap_threshold = -3  # malloc.h
        libc.mallopt(m_mmap_threshold, 4 << 20)


def _check_bindings() -> None:
    """Refuse a llama-cpp-python whose structs do not match its library.

    The structs are plain ctypes: a field too many shifts all that follow. Known
    defaults of both parameter structs, first fields and last, show such a shift.
    """
    context, model = L.llama_context_default_params(), L.llama_model_default_params()
    sizes = (context.n_batch, context.n_ubatch, context.n_seq_max, context.flash_attn_type)
    switches = (context.offload_kqv, context.kv_unified, model.use_extra_bufts)
    if sizes != (2048, 512, 1, -1) or switches != (True, False, True):
        version = importlib.metadata.version("llama-cpp-python")
        raise ModelLoadFailed(
            f"llama-cpp-python {version} does not match the llama.cpp library it was built with.",
            hint="Reinstall it: pip install --force-reinstall --no-cache-dir 'llama-cpp-python==0.3.36'",
        )


def decode_error(result: int) -> EngineCrashed:
    """What a forward pass that has failed means, by its result and what llama.cpp logged of it.

    Results: 1 is a full cache, -1 a bad batch, -2 a failed allocation, -3 a failed computation.
    """
    lines = log.take_errors()[-3:]
    detail = lines[-1].strip() if lines else f"llama_decode: {result}"
    if result == -2 or any(OUT_OF_MEMORY.search(line) for line in lines):
        return EngineCrashed(
            f"There was not enough memory to compute the request ({detail}).",
            hint="Load the model with a smaller context_length, eval_batch_size or gpu_layers, "
            "or unload another model.",
        )
    return EngineCrashed(f"llama.cpp could not compute the request ({detail}).")


class AbortFlag:
    """Stops a forward pass from another thread, within one graph node.

    llama.cpp asks its abort callback once per graph node, hundreds of times a step. A Python
    callback would take the GIL each time; the C library's `strlen` over a two-byte buffer does
    not: an empty string means continue, a string of one byte means abort.
    """

    def __init__(self) -> None:
        self._buffer = ctypes.create_string_buffer(2)
        libc = ctypes.CDLL(None)
        address = ctypes.cast(libc.strlen, ctypes.c_void_p).value or 0
        self.callback = L.ggml_abort_callback(address)
        self.data = ctypes.cast(self._buffer, ctypes.c_void_p)

    def set(self) -> None:
        """Abort the forward pass that runs, or the next one."""
        self._buffer[0] = b"\x01"

    def clear(self) -> None:
        """Let forward passes run again."""
        self._buffer[0] = b"\x00"


_DEVICE_TYPES = {0: "cpu", 1: "gpu", 2: "igpu"}


def devices() -> tuple[Device, ...]:
    """The devices this build can compute on, CPU included."""
    _lib.ggml_backend_dev_count.restype = ctypes.c_size_t
    _lib.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    _lib.ggml_backend_dev_get.restype = ctypes.c_void_p
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        getattr(_lib, name).argtypes = [ctypes.c_void_p]
        getattr(_lib, name).restype = ctypes.c_char_p
    _lib.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    _lib.ggml_backend_dev_type.restype = ctypes.c_int
    size = ctypes.POINTER(ctypes.c_size_t)
    _lib.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]
    found = []
    for index in range(_lib.ggml_backend_dev_count()):
        device = _lib.ggml_backend_dev_get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        _lib.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        found.append(
            Device(
                name=_lib.ggml_backend_dev_name(device).decode(),
                description=_lib.ggml_backend_dev_description(device).decode(),
                type=_DEVICE_TYPES.get(_lib.ggml_backend_dev_type(device), "accel"),  # type: ignore[arg-type]
                memory_total=total.value,
                memory_free=free.value,
            )
        )
    return tuple(found)


def device_handles() -> dict[str, int]:
    """Ggml's handles of the devices by name."""
    names = [device.name for device in devices()]
    return {name: _lib.ggml_backend_dev_get(index) for index, name in enumerate(names)}


def host_buffers() -> Any:
    """The buffer type of plain host memory, for tensors that must not go to a GPU."""
    _lib.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    return _lib.ggml_backend_cpu_buffer_type()


def ggml(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml by its name and the ctypes of its result and arguments.

    Raises
    ------
    AttributeError
        This build does not have it.
    """
    function = getattr(_lib, name)
    function.restype, function.argtypes = result, arguments
    return function


def address(pointer: Any) -> int:
    """Where a pointer points to.

    Raises
    ------
    EngineCrashed
        It is NULL: llama.cpp has nothing to show.
    """
    if not pointer:
        raise EngineCrashed("llama.cpp has computed no result.")
    return ctypes.addressof(pointer.contents)


def floats(pointer: Any, count: int) -> NDArray[np.float32]:
    """The `count` floats at a pointer, as a writable view.

    Raises
    ------
    EngineCrashed
        The pointer is NULL.
    """
    # Not as an array of ctypes: each length is a type of its own, which takes long to make, and is
    # garbage that only the collector finds.
    memory = _memory_view(address(pointer), 4 * count, _WRITABLE)
    return np.frombuffer(memory, np.float32)


def address_of_tokenize() -> int:
    """Where `llama_tokenize` lies in memory, for libraries that call it themselves."""
    return ctypes.cast(_lib.llama_tokenize, ctypes.c_void_p).value or 0


def mtmd() -> Any:
    """llama.cpp's library for images and sounds, with its log in ours.

    Raises
    ------
    NotSupported
        This build of llama-cpp-python comes without it.
    """
    try:
        library: Any = importlib.import_module("llama_cpp.mtmd_cpp")
    except (ImportError, OSError, FileNotFoundError, AttributeError) as error:
        raise NotSupported(
            f"This llama-cpp-python has no working libmtmd, so images cannot be read ({error}).",
            hint="Reinstall it: pip install --force-reinstall --no-cache-dir 'llama-cpp-python==0.3.36'",
        ) from error
    callback = L.llama_log_callback(log.write)
    _keep_alive.append(callback)
    library.mtmd_helper_log_set(callback, ctypes.c_void_p(None))
    return library


def extensions() -> Any:
    """What llama.cpp exports beyond its public interface: the names are those of this release.

    Raises
    ------
    NotSupported
        This build does not have them.
    """
    try:
        return importlib.import_module("llama_cpp.llama_cpp_ext")
    except (ImportError, AttributeError) as error:
        raise NotSupported(
            f"This llama-cpp-python cannot run a layer for multi-token prediction ({error}).",
            hint="Load the model with draft_tokens 0.",
            param="draft_tokens",
        ) from error


def gguf_type(path: Path, key: str) -> int | None:
    """The type of a metadata value in a GGUF file (gguf.h, enum gguf_type); None if it is not there.

    llama.cpp asserts the types it expects of some.
    """
    _lib.gguf_init_from_file.argtypes = [ctypes.c_char_p, _GgufParams]
    _lib.gguf_init_from_file.restype = ctypes.c_void_p
    for name in ("gguf_find_key", "gguf_get_kv_type"):
        value = ctypes.c_char_p if name == "gguf_find_key" else ctypes.c_int64
        getattr(_lib, name).argtypes = [ctypes.c_void_p, value]
    _lib.gguf_find_key.restype = ctypes.c_int64
    _lib.gguf_free.argtypes = [ctypes.c_void_p]
    handle = _lib.gguf_init_from_file(str(path).encode(), _GgufParams(no_alloc=True))
    if not handle:
        return None
    try:
        number = _lib.gguf_find_key(handle, key.encode())
        found: int | None = None if number < 0 else _lib.gguf_get_kv_type(handle, number)
        return found
    finally:
        _lib.gguf_free(handle)


class _GgufParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


def supports_gpu_offload() -> bool:
    """Whether this build can put layers on a GPU."""
    return bool(L.llama_supports_gpu_offload())


def extra_buffers_work(header: Header) -> bool:
    """Whether llama.cpp may keep a model's weights in layouts of its own for this CPU (`use_extra_bufts`).

    Where that means Intel's AMX, the first forward pass kills the process on many machines: GCC
    before 11.5, 12.4 and 13.3 drops most of the tile configuration, which llama.cpp keeps on the
    stack (ggml-org/llama.cpp#20824, PR #26954), and virtual machines forbid the instructions.
    Weights in floats are computed there without these instructions (amx/mmq.cpp), a tenth faster
    than elsewhere.
    """
    floats_only = all(tensor.type in _FLOATS for tensor in header.tensors)
    return "AMX_INT8 = 1" not in system_info() or (floats_only and header.split_count == 1)


def system_info() -> str:
    """llama.cpp's own line about the instruction sets and backends it was built with."""
    text: bytes = L.llama_print_system_info()
    return text.decode()
