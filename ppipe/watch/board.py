"""What is counted per stream, and the table of it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ppipe.watch.asking import ShotFate, ShotResult
from ppipe.watch.feed import QUIET, FeedState

WINDOW_S = 5.0
"""That fps and ages are of."""
_MOST_KEPT = 2_000
_NAME_WIDTH = 20


class StreamCounts:
    """Of one stream: outcomes since the start, and answers of the last seconds."""

    def __init__(self, stream: str, feed: FeedState) -> None:
        self.stream = stream
        self.feed = feed
        self.outcomes: Counter[ShotFate] = Counter()
        self.why = ""
        """Of the last picture that failed."""
        self._recent: deque[tuple[float, float]] = deque(maxlen=_MOST_KEPT)
        self._began_s = time.monotonic()

    def count(self, answer: ShotResult) -> None:
        """One picture has got its answer."""
        self.outcomes[answer.outcome] += 1
        if answer.outcome is ShotFate.ANSWERED:
            self._recent.append((time.monotonic(), answer.age_s))
        elif answer.outcome is ShotFate.FAILED:
            self.why = answer.why

    def rate_and_ages(self) -> tuple[float, list[float]]:
        """Answers a second, and their ages in rising order, of the last seconds."""
        now_s = time.monotonic()
        ages = sorted(age_s for at_s, age_s in self._recent if at_s > now_s - WINDOW_S)
        return len(ages) / max(0.1, min(WINDOW_S, now_s - self._began_s)), ages


def board(streams: Sequence[StreamCounts]) -> RenderableType:
    """A row per stream; below them what a source or the server says."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("stream", no_wrap=True, overflow="ellipsis", max_width=_NAME_WIDTH)
    for heading in ("fps", "age ms", "p99", "answered", "dropped", "superseded", "skipped", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in streams:
        fps, ages = one.rate_and_ages()
        table.add_row(
            one.stream,
            f"{fps:.1f}",
            *(f"{1000 * _quantile(ages, share):.0f}" if ages else "-" for share in (0.5, 0.99)),
            *(str(one.outcomes[each]) for each in (ShotFate.ANSWERED, ShotFate.DROPPED, ShotFate.SUPERSEDED)),
            str(one.feed.skipped),
            str(one.outcomes[ShotFate.FAILED]),
        )
    return Group(table, *_notes(streams))


def _notes(streams: Sequence[StreamCounts]) -> list[Text]:
    said = []
    for one in streams:
        if one.feed.text not in QUIET:
            said.append(Text(f"{one.stream}: {one.feed.text}", style="red" if one.feed.failed else ""))
        if one.why:
            said.append(Text(f"{one.stream}: last failure: {one.why}", style="red"))
    return said


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
