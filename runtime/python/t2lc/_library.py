"""The shared library: loads it and declares what the package calls of runtime/include/t2lc.h.

Calls through ctypes release Python's global lock, so that other threads run while one compiles.
"""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import POINTER, c_bool, c_char_p, c_float, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path

ABI_VERSION = 1

BACKENDS = {"auto": 0, "exact": 1, "tract": 2, "ort": 3}
FORMATS = {"gguf": 0, "peft": 1}
QUANTIZATIONS = {
    None: 0,
    "f32": 1,
    "f16": 2,
    "bf16": 3,
    "q8_0": 4,
    "q4_0": 5,
    "q4_1": 6,
    "q5_0": 7,
    "q5_1": 8,
}
STAGES = {1: "encode", 2: "generate", 3: "quantize", 4: "write"}

Progress = ctypes.CFUNCTYPE(c_bool, c_uint32, c_uint64, c_uint64, c_void_p)


class OpenOptions(ctypes.Structure):
    """``t2lc_open_options``."""

    _fields_ = (
        ("struct_size", c_uint32),
        ("backend", c_uint32),
        ("threads", c_uint32),
        ("reserved", c_uint32),
        ("provider", c_char_p),
        ("provider_length", c_size_t),
    )


class CompileOptions(ctypes.Structure):
    """``t2lc_compile_options``."""

    _fields_ = (
        ("struct_size", c_uint32),
        ("format", c_uint32),
        ("quantization", c_uint32),
        ("scale", c_float),
        ("progress", Progress),
        ("context", c_void_p),
    )


class FileBytes(ctypes.Structure):
    """``t2lc_file_bytes``."""

    _fields_ = (
        ("name", c_char_p),
        ("name_length", c_size_t),
        ("bytes", c_char_p),
        ("size", c_size_t),
    )


# Handles are numbers, not addresses, but travel as pointers.
_HANDLE = c_void_p
_HANDLE_OUT = POINTER(c_void_p)

# Result and arguments of each function.
_FUNCTIONS = {
    "t2lc_abi_version": (c_uint32, []),
    "t2lc_version": (c_char_p, []),
    "t2lc_open_options_init": (ctypes.c_int32, [POINTER(OpenOptions), c_uint32]),
    "t2lc_compile_options_init": (ctypes.c_int32, [POINTER(CompileOptions), c_uint32]),
    "t2lc_open_directory": (
        ctypes.c_int32,
        [c_char_p, c_size_t, POINTER(OpenOptions), _HANDLE_OUT, _HANDLE_OUT],
    ),
    "t2lc_open_bytes": (
        ctypes.c_int32,
        [POINTER(FileBytes), c_size_t, POINTER(OpenOptions), _HANDLE_OUT, _HANDLE_OUT],
    ),
    "t2lc_compiler_free": (None, [_HANDLE]),
    "t2lc_compiler_manifest": (c_char_p, [_HANDLE]),
    "t2lc_compiler_bundle_digest": (c_char_p, [_HANDLE]),
    "t2lc_compiler_backend": (c_char_p, [_HANDLE]),
    "t2lc_compile": (
        ctypes.c_int32,
        [_HANDLE, c_char_p, c_size_t, POINTER(CompileOptions), _HANDLE_OUT, _HANDLE_OUT],
    ),
    "t2lc_nearest": (
        ctypes.c_int32,
        [_HANDLE, c_char_p, c_size_t, c_size_t, _HANDLE_OUT, _HANDLE_OUT],
    ),
    "t2lc_adapter_file_count": (c_size_t, [_HANDLE]),
    "t2lc_adapter_file_name": (c_char_p, [_HANDLE, c_size_t]),
    "t2lc_adapter_file_bytes": (c_void_p, [_HANDLE, c_size_t, POINTER(c_size_t)]),
    "t2lc_adapter_recipe": (c_char_p, [_HANDLE]),
    "t2lc_adapter_content": (c_char_p, [_HANDLE]),
    "t2lc_adapter_tokens": (c_size_t, [_HANDLE]),
    "t2lc_adapter_truncated": (c_bool, [_HANDLE]),
    "t2lc_adapter_similarity": (_HANDLE, [_HANDLE]),
    "t2lc_adapter_write": (ctypes.c_int32, [_HANDLE, c_char_p, c_size_t, c_bool, _HANDLE_OUT]),
    "t2lc_adapter_free": (None, [_HANDLE]),
    "t2lc_similarity_count": (c_size_t, [_HANDLE]),
    "t2lc_similarity_task": (c_char_p, [_HANDLE, c_size_t]),
    "t2lc_similarity_cosine": (c_float, [_HANDLE, c_size_t]),
    "t2lc_similarity_familiar": (c_bool, [_HANDLE]),
    "t2lc_similarity_free": (None, [_HANDLE]),
    "t2lc_error_status": (ctypes.c_int32, [_HANDLE]),
    "t2lc_error_code": (c_char_p, [_HANDLE]),
    "t2lc_error_message": (c_char_p, [_HANDLE]),
    "t2lc_error_free": (None, [_HANDLE]),
}


def _path() -> Path:
    chosen = os.environ.get("T2LC_LIBRARY")
    if chosen:
        return Path(chosen)
    # The names that maturin gives it.
    if sys.platform == "win32":
        name = "_native.dll"
    elif sys.platform == "darwin":
        name = "lib_native.dylib"
    else:
        name = "lib_native.so"
    return Path(__file__).parent / "_native" / name


def _load() -> ctypes.CDLL:
    path = _path()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ImportError(
            f"the shared library of t2lc cannot be loaded from {path}: {error}; install the wheel, "
            "or set T2LC_LIBRARY to a library that was built with the feature `capi`"
        ) from error
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise ImportError(f"{path} has no function {name}") from error
        function.restype = result
        function.argtypes = arguments
    version = library.t2lc_abi_version()
    if version != ABI_VERSION:
        raise ImportError(f"{path} has interface version {version}, expected {ABI_VERSION}")
    return library


LIBRARY = _load()


def text(value: bytes | None) -> str:
    """Text that came out of the library; NULL means that the handle is gone."""
    if value is None:
        raise RuntimeError("t2lc: a handle was freed while it was in use")
    return value.decode("utf-8")
