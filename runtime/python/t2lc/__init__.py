"""Compiles a sentence into a LoRA adapter.

``compile`` is the whole of it for one sentence; ``Compiler`` keeps a bundle open and says more.
"""

from ._adapter import Adapter
from ._compiler import (
    Backend,
    Compiler,
    Format,
    ProgressCallback,
    Quantization,
    Stage,
    compile,
)
from ._errors import Status, T2lcError
from ._library import LIBRARY as _LIBRARY
from ._library import text as _text
from ._similarity import NearestTask, Similarity

__version__ = _text(_LIBRARY.t2lc_version())

__all__ = [
    "Adapter",
    "Backend",
    "Compiler",
    "Format",
    "NearestTask",
    "ProgressCallback",
    "Quantization",
    "Similarity",
    "Stage",
    "Status",
    "T2lcError",
    "compile",
]
