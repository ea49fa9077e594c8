"""An opened bundle, and the function that needs none."""

from __future__ import annotations

import functools
import json
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from ctypes import byref, c_void_p, sizeof
from typing import Any, Literal, Optional, TypeVar, Union, overload

from . import _library, _similarity
from ._adapter import Adapter
from ._errors import Status, T2lcError, check
from ._library import LIBRARY, text
from ._similarity import Similarity

Backend = Literal["auto", "exact", "tract", "ort"]
Format = Literal["gguf", "peft"]
Quantization = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]
Stage = Literal["encode", "generate", "quantize", "write"]
Path = Union[str, "os.PathLike[str]"]
#: Is told ``(stage, done, total)`` on the thread that compiles. Returning False cancels; returning
#: nothing goes on. What it raises ends the compile and is raised there.
ProgressCallback = Callable[[Stage, int, int], Optional[bool]]

_BUNDLE_VARIABLE = "T2LC_BUNDLE"


class Compiler:
    """An opened bundle, ready to compile.

    ``bundle`` is the path of a ``NAME.t2lc`` directory, whose files are mapped into memory, or the
    files themselves by name, which are copied; without it the environment variable ``T2LC_BUNDLE``
    names the directory. Every file is checked against the manifest. ``threads`` is for the backend
    ``exact``, 0 for as many as there are, at most 8; ``provider`` is ONNX Runtime's.

    Several threads may use one compiler at once. A compiler of a path can be pickled: it is opened
    again where it arrives, and the bundle there must be the same. A ``with`` statement closes it;
    otherwise it is closed when nothing refers to it.
    """

    def __init__(
        self,
        bundle: Path | Mapping[str, bytes] | None = None,
        *,
        backend: Backend = "auto",
        threads: int = 0,
        provider: str | None = None,
    ) -> None:
        options = _library.OpenOptions()
        check(LIBRARY.t2lc_open_options_init(byref(options), sizeof(options)), c_void_p())
        options.backend = _number("backend", backend, _library.BACKENDS)
        if not 0 <= threads < 2**32:
            raise ValueError(f"threads is {threads}, expected 0 or more")
        options.threads = threads
        if provider is not None:
            name = provider.encode()
            options.provider, options.provider_length = name, len(name)

        handle, error = c_void_p(), c_void_p()
        if isinstance(bundle, Mapping):
            self._path = None
            files = _files(bundle)
            status = LIBRARY.t2lc_open_bytes(
                files, len(files), byref(options), byref(handle), byref(error)
            )
        else:
            # Absolute, because another process may have another working directory.
            self._path = os.path.abspath(_bundle_path(bundle))
            path = os.fsencode(self._path)
            status = LIBRARY.t2lc_open_directory(
                path, len(path), byref(options), byref(handle), byref(error)
            )
        check(status, error)
        assert handle.value is not None
        self._handle = handle.value
        self._free = weakref.finalize(self, LIBRARY.t2lc_compiler_free, self._handle)
        self._options: dict[str, Any] = {
            "backend": backend,
            "threads": threads,
            "provider": provider,
        }
        # Threads that are in a progress callback of this compiler.
        self._reporting: list[int] = []
        self._manifest = text(LIBRARY.t2lc_compiler_manifest(self._handle))
        self._bundle_digest = text(LIBRARY.t2lc_compiler_bundle_digest(self._handle))
        self._backend = text(LIBRARY.t2lc_compiler_backend(self._handle))

    @property
    def manifest(self) -> dict[str, Any]:
        """What ``manifest.json`` of the bundle says: base model, encoder, licences."""
        manifest: dict[str, Any] = json.loads(self._manifest)
        return manifest

    @property
    def bundle_digest(self) -> str:
        """Digest of the bundle, ``sha256:…``."""
        return self._bundle_digest

    @property
    def backend(self) -> str:
        """Class of arithmetic, for example ``exact/1``."""
        return self._backend

    def compile(
        self,
        description: str,
        *,
        quantization: Quantization | None = None,
        scale: float = 1.0,
        format: Format = "gguf",
        progress: ProgressCallback | None = None,
    ) -> Adapter:
        """Compiles one description.

        ``quantization`` is by default ``q8_0`` for GGUF and ``f32`` for PEFT, which has no others
        than ``f32``, ``f16`` and ``bf16``. ``scale`` is the strength: 1 as trained, 0 for none.
        """
        options = _library.CompileOptions()
        check(LIBRARY.t2lc_compile_options_init(byref(options), sizeof(options)), c_void_p())
        options.format = _number("format", format, _library.FORMATS)
        options.quantization = _number("quantization", quantization, _library.QUANTIZATIONS)
        options.scale = scale
        raised: list[BaseException] = []
        if progress is not None:
            options.progress = self._reporter(progress, raised)

        utf8 = description.encode()
        handle, error = c_void_p(), c_void_p()
        status = LIBRARY.t2lc_compile(
            self._handle, utf8, len(utf8), byref(options), byref(handle), byref(error)
        )
        try:
            check(status, error)
        except T2lcError as failure:
            if raised and failure.status == Status.CANCELLED:
                raise raised[0] from None
            raise
        assert handle.value is not None
        adapter = Adapter(handle.value)
        if raised:
            # The callback raised where nothing could be cancelled any more.
            raise raised[0]
        return adapter

    def _reporter(self, progress: ProgressCallback, raised: list[BaseException]) -> Any:
        def report(stage: int, done: int, total: int, _context: object) -> bool:
            thread = threading.get_ident()
            self._reporting.append(thread)
            try:
                # A stage that a newer library has keeps its number as its name.
                name: Any = _library.STAGES.get(stage, str(stage))
                answer = progress(name, done, total)
                return answer is None or bool(answer)
            except BaseException as exception:  # It must not unwind through the library.
                raised.append(exception)
                return False
            finally:
                self._reporting.remove(thread)

        return _library.Progress(report)

    def nearest(self, description: str, count: int = 3) -> Similarity:
        """The ``count`` training tasks that a description is nearest to, without compiling it."""
        if count < 0:
            raise ValueError(f"count is {count}, expected 0 or more")
        utf8 = description.encode()
        handle, error = c_void_p(), c_void_p()
        status = LIBRARY.t2lc_nearest(
            self._handle, utf8, len(utf8), count, byref(handle), byref(error)
        )
        check(status, error)
        return _similarity.take(handle.value)

    def close(self) -> None:
        """Frees the bundle; calls that other threads are in end first. Twice is once."""
        if threading.get_ident() in self._reporting:
            # The library would wait for the very call that waits here.
            raise RuntimeError("a progress callback cannot close its compiler")
        self._free()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<t2lc.Compiler {self._path or 'from memory'} {self.backend}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._path is None:
            raise TypeError("a Compiler of files in memory cannot be pickled: open it by path")
        return _reopen, (type(self), self._path, self._options, self.bundle_digest)


_Self = TypeVar("_Self", bound=Compiler)


@overload
def compile(
    description: str,
    *,
    bundle: Path | None = ...,
    quantization: Quantization | None = ...,
    scale: float = ...,
    format: Literal["gguf"] = ...,
) -> bytes: ...
@overload
def compile(
    description: str,
    *,
    bundle: Path | None = ...,
    quantization: Quantization | None = ...,
    scale: float = ...,
    format: Literal["peft"],
) -> dict[str, bytes]: ...
def compile(
    description: str,
    *,
    bundle: Path | None = None,
    quantization: Quantization | None = None,
    scale: float = 1.0,
    format: Format = "gguf",
) -> bytes | dict[str, bytes]:
    """Compiles one description: the bytes of a GGUF file, or both files of a PEFT directory.

    The bundle, a path or by default what ``T2LC_BUNDLE`` names, stays open for the next call.
    """
    compiler = _opened(*_identity(_bundle_path(bundle)))
    adapter = compiler.compile(description, quantization=quantization, scale=scale, format=format)
    return adapter.bytes if format == "gguf" else adapter.files


@functools.lru_cache(maxsize=4)
def _opened(path: str, _modified: int, _size: int) -> Compiler:
    return Compiler(path)


def _identity(path: str) -> tuple[str, int, int]:
    """The path and what changes when another bundle comes to lie there."""
    path = os.path.abspath(path)
    try:
        manifest = os.stat(os.path.join(path, "manifest.json"))
    except OSError:
        # Opening it says what is wrong, and is not remembered.
        return path, 0, 0
    return path, manifest.st_mtime_ns, manifest.st_size


def _reopen(
    kind: type[Compiler], path: str, options: dict[str, Any], bundle_digest: str
) -> Compiler:
    compiler = kind(path, **options)
    if compiler.bundle_digest != bundle_digest:
        found = compiler.bundle_digest
        compiler.close()
        raise ValueError(f"{path} holds the bundle {found}, expected {bundle_digest}")
    return compiler


def _bundle_path(bundle: Path | None) -> str:
    path = os.environ.get(_BUNDLE_VARIABLE) if bundle is None else os.fspath(bundle)
    if not path:
        raise ValueError(
            f"no bundle: pass the path of a NAME.t2lc directory, or set {_BUNDLE_VARIABLE} to one"
        )
    return path


def _files(bundle: Mapping[str, bytes]) -> Any:
    files = (_library.FileBytes * len(bundle))()
    for file, (name, content) in zip(files, bundle.items()):
        utf8, content = name.encode(), bytes(content)
        file.name, file.name_length = utf8, len(utf8)
        file.bytes, file.size = content, len(content)
    return files


def _number(what: str, name: Any, numbers: Mapping[Any, int]) -> int:
    try:
        return numbers[name]
    except (KeyError, TypeError):
        expected = ", ".join(repr(known) for known in numbers)
        raise ValueError(f"unknown {what} {name!r}, expected one of {expected}") from None
