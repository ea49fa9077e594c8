"""The training tasks that a description is nearest to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ._library import LIBRARY, text


class NearestTask(NamedTuple):
    """A training task and how close its descriptions are."""

    #: The task's id.
    id: str
    #: Cosine similarity, at most 1.
    cosine: float


@dataclass(frozen=True)
class Similarity:
    """How much a description resembles what the bundle was trained on."""

    #: Nearest first.
    tasks: tuple[NearestTask, ...]
    #: Whether it is as close to a training task as unseen real ones are, and no closer to a text
    #: that describes none; true where no training description is known.
    familiar: bool


def take(handle: int | None) -> Similarity:
    """Copies what the handle has, and frees it."""
    try:
        count = LIBRARY.t2lc_similarity_count(handle)
        tasks = tuple(
            NearestTask(
                text(LIBRARY.t2lc_similarity_task(handle, index)),
                LIBRARY.t2lc_similarity_cosine(handle, index),
            )
            for index in range(count)
        )
        return Similarity(tasks, LIBRARY.t2lc_similarity_familiar(handle))
    finally:
        LIBRARY.t2lc_similarity_free(handle)
