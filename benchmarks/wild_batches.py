"""Networks of any number of frames: served as the unsplit one answers, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.helpers import wild_nets_batch
from benchmarks.helpers.wild_case import WildCase

TABLES = (wild_nets_batch.NETS,)


def cases() -> Iterator[WildCase]:
    """Every network."""
    for table in TABLES:
        for net in table:
            yield net.case()
