"""A compiled adapter."""

from __future__ import annotations

import builtins
import json
import os
import weakref
from ctypes import byref, c_char, c_size_t, c_void_p
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from . import _safetensors, _similarity
from ._errors import check
from ._library import LIBRARY, text
from ._similarity import Similarity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_GGUF = "adapter.gguf"
_PEFT_WEIGHTS = "adapter_model.safetensors"
_PEFT_CONFIG = "adapter_config.json"


class Adapter:
    """A compiled adapter, in memory. :meth:`Compiler.compile` makes them.

    It does not need its compiler any more. It cannot be pickled; send ``bytes`` or ``files``.
    """

    #: Digest of everything that went in, ``sha256:…``.
    recipe: str
    #: Digest of the bytes that came out: of the GGUF file, or of both PEFT files in order.
    content: str
    #: Tokens of the description.
    tokens: int
    #: Whether the description was longer than the encoder reads.
    truncated: bool
    #: The nearest training tasks.
    similarity: Similarity

    def __init__(self, handle: int) -> None:
        """Takes a handle of the library; not for other callers."""
        self._handle = handle
        self._free = weakref.finalize(self, LIBRARY.t2lc_adapter_free, handle)
        self.recipe = text(LIBRARY.t2lc_adapter_recipe(handle))
        self.content = text(LIBRARY.t2lc_adapter_content(handle))
        self.tokens = LIBRARY.t2lc_adapter_tokens(handle)
        self.truncated = LIBRARY.t2lc_adapter_truncated(handle)
        self.similarity = _similarity.take(LIBRARY.t2lc_adapter_similarity(handle))

    @cached_property
    def files(self) -> dict[str, builtins.bytes]:
        """Name and bytes of each file, in the order that ``content`` covers them."""
        count = LIBRARY.t2lc_adapter_file_count(self._handle)
        return dict(self._file(index) for index in range(count))

    def _file(self, index: int) -> tuple[str, builtins.bytes]:
        name = text(LIBRARY.t2lc_adapter_file_name(self._handle, index))
        size = c_size_t()
        address = LIBRARY.t2lc_adapter_file_bytes(self._handle, index, byref(size))
        if not size.value:
            return name, b""
        return name, bytes((c_char * size.value).from_address(address))

    @property
    def bytes(self) -> builtins.bytes:
        """The GGUF file."""
        if _GGUF not in self.files:
            raise ValueError("a PEFT adapter is two files: use `files`, `peft()` or `write()`")
        return self.files[_GGUF]

    def peft(self) -> dict[str, NDArray[np.float32]]:
        """The matrices of a PEFT adapter by name, as f32 whatever their type. Needs numpy."""
        return _safetensors.read(self._peft_file(_PEFT_WEIGHTS))

    def peft_config(self) -> dict[str, Any]:
        """What ``adapter_config.json`` says: the arguments of ``peft.LoraConfig``."""
        config: dict[str, Any] = json.loads(self._peft_file(_PEFT_CONFIG))
        return config

    def _peft_file(self, name: str) -> builtins.bytes:
        if name not in self.files:
            raise ValueError('this is a GGUF adapter; compile with format="peft"')
        return self.files[name]

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the GGUF file, or the PEFT directory, whole or not at all."""
        name = os.fsencode(path)
        error = c_void_p()
        status = LIBRARY.t2lc_adapter_write(self._handle, name, len(name), overwrite, byref(error))
        check(status, error)

    def __repr__(self) -> str:
        return f"<t2lc.Adapter {', '.join(self.files)} {self.content}>"

    def __reduce__(self) -> NoReturn:
        # Its handle means nothing, or something else, in another process.
        raise TypeError("an Adapter cannot be pickled or copied: send `bytes` or `files`")
