"""Reads the tensors of a safetensors file as f32, for the three types that a PEFT adapter has.

The file is the length of its header as u64, the header as JSON, and the values; all little-endian.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_VALUE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def read(file: bytes) -> dict[str, NDArray[np.float32]]:
    """Every tensor by name."""
    start = 8 + int.from_bytes(file[:8], "little")
    if len(file) < 8 or start > len(file):
        raise ValueError("not a safetensors file: it ends within its header")
    header: dict[str, Any] = json.loads(file[8:start])
    header.pop("__metadata__", None)
    return {name: _tensor(name, entry, file, start) for name, entry in header.items()}


def _tensor(name: str, entry: dict[str, Any], file: bytes, start: int) -> NDArray[np.float32]:
    # Only here, so that everything else works without numpy.
    import numpy as np

    dtype, shape = entry["dtype"], entry["shape"]
    begin, end = (start + offset for offset in entry["data_offsets"])
    if dtype not in _VALUE_BYTES:
        raise ValueError(f"`{name}` has the type {dtype}, expected F32, F16 or BF16")
    count = 1
    for length in shape:
        count *= length
    if not start <= begin <= end <= len(file) or end - begin != count * _VALUE_BYTES[dtype]:
        raise ValueError(f"`{name}` does not fit its bytes")
    if dtype == "BF16":
        # The upper half of an f32.
        halves = np.frombuffer(file, "<u2", count, begin)
        values = (halves.astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(file, "<f4" if dtype == "F32" else "<f2", count, begin)
    # A copy: frombuffer's arrays cannot be written to.
    return np.array(values, dtype=np.float32).reshape(shape)
