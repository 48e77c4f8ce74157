"""What a search says of how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Progress = Callable[[str, int, int | None], None]
"""Hears what is done now, and how many of how many jobs of it have ended."""


def silent(text: str, done: int, total: int | None) -> None:
    """Tell nobody."""


def telling(progress: Progress, text: str, results: Iterable[T], total: int) -> Iterator[T]:
    """The results, each of which is told of when it comes."""
    progress(text, 0, total)
    for done, result in enumerate(results, 1):
        progress(text, done, total)
        yield result
