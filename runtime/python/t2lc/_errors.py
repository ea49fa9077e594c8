"""The error of every failed call."""

from __future__ import annotations

import enum
from ctypes import c_void_p

from ._library import LIBRARY, text


class Status(enum.IntEnum):
    """What went wrong, by number; the numbers are those of t2lc.h."""

    ARGUMENT = 1
    DESCRIPTION = 2
    BUNDLE = 3
    BACKEND = 4
    COMPILE = 5
    OUTPUT = 6
    CANCELLED = 7
    INTERNAL = 8


class T2lcError(Exception):
    """A call failed: ``status`` for programs, ``code`` in detail (``bundle.digest``), ``message``
    for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        # All three, so that the error survives pickling.
        super().__init__(status, code, message)
        #: A :class:`Status`, or a plain number that a newer library has and this package has not.
        self.status: int = Status(status) if status in Status.__members__.values() else status
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


def check(status: int, error: c_void_p) -> None:
    """Raises the error of a call that failed, and frees it."""
    if status == 0:
        return
    if not error.value:
        raise T2lcError(status, "internal.no_error", f"t2lc failed with status {status}")
    try:
        code = text(LIBRARY.t2lc_error_code(error))
        message = text(LIBRARY.t2lc_error_message(error))
    finally:
        LIBRARY.t2lc_error_free(error)
    raise T2lcError(status, code, message)
