"""What a rollout reckons with: workers at their places, the revisions that want them, what is loaded now.

Rules
- A worker is known by its Triton model's name, which says what it runs and where: two revisions that want
  the same worker at the same place want the same name, and it is loaded once.
- Tables are what dispatchers have: they may name workers that are not loaded, as after a loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from planner.serving import ServedModel

DEFAULT_LOAD_US = 3_000_000
"""Until loads have been seen: a stub with torch is there after two seconds, and then loads its program."""

Tables = Mapping[str, ServedModel]
"""By model."""


class Gpu(NamedTuple):
    """One GPU: its server, and its number there."""

    server: str
    gpu_id: int


@dataclass(frozen=True)
class Loadable:
    """A worker at its place. needs_bytes: of its GPU's memory, context included; 0: not modelled.
    load_us: how long a load is expected to take.
    """

    name: str
    model: str
    gpu: Gpu
    needs_bytes: int = 0
    load_us: int = DEFAULT_LOAD_US


@dataclass(frozen=True)
class FleetRevision:
    """One plan as it is served. splits: by model, the digest of how its network is cut into blocks."""

    number: int
    deployment: str
    splits: Mapping[str, str]
    tables: Tables
    workers: Mapping[str, Loadable]


@dataclass(frozen=True)
class Situation:
    """A fleet as it is now. workers: all that are known, by name, loaded or not. rooms: what each GPU has for
    workers, in bytes; a GPU that is not in it is not modelled. out: servers that do not answer. settled:
    whether all dispatchers serve by `tables`; one that refused them may still use any loaded worker.
    loading: of the loaded those that do not answer yet. They hold their memory, and serve nothing. known:
    tables of whole revisions whose workers may be loaded; a rollout that was stopped has left `tables` with
    less than could be made of them.
    """

    tables: Tables
    loaded: frozenset[str]
    workers: Mapping[str, Loadable]
    rooms: Mapping[Gpu, int] = field(default_factory=dict)
    out: frozenset[str] = frozenset()
    settled: bool = True
    loading: frozenset[str] = frozenset()
    known: tuple[Tables, ...] = ()

    @property
    def usable(self) -> frozenset[str]:
        """Loaded workers that answer, on servers that do."""
        return frozenset(
            name for name in self.loaded - self.loading if self.workers[name].gpu.server not in self.out
        )

    def taken_bytes(self, gpu: Gpu, workers: Iterable[str]) -> int:
        """What these workers need of a GPU's memory, those elsewhere left out."""
        found = (self.workers[name] for name in workers)
        return sum(worker.needs_bytes for worker in found if worker.gpu == gpu)

    def fits(self, gpu: Gpu, workers: Iterable[str]) -> bool:
        """Whether these workers are within a GPU's memory together."""
        room = self.rooms.get(gpu)
        return room is None or self.taken_bytes(gpu, workers) <= room


def named_in(tables: Tables) -> Iterator[str]:
    """Workers that dispatchers with these tables use."""
    for table in tables.values():
        yield from (worker.name for _, worker in table.workers())
