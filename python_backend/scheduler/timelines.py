"""Reserved time of workers and links.

Rules: a resource is reserved in commit order and never before its free time, so intervals never overlap;
free times only fall when a stage ends early, a batch fails, or a worker comes back. The earliest worker of
a pool is found without a scan: workers that share their links form a group, groups and the workers in each
sit in heaps whose stale entries are corrected when they surface.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace

from planner.serving import ServedPipeline, ServedStage
from python_backend.scheduler.batches import Reservation

NEVER = 1 << 62
"""A time that does not come."""


class Links:
    """Free times of a model's uplinks and downlinks, by index."""

    __slots__ = ("down_free", "down_names", "up_free", "up_names")

    def __init__(self) -> None:
        self.up_names: dict[str, int] = {}
        self.down_names: dict[str, int] = {}
        self.up_free: list[int] = []
        self.down_free: list[int] = []

    def uplink(self, name: str) -> int:
        """Index of an uplink, made when it is new."""
        if name not in self.up_names:
            self.up_names[name] = len(self.up_free)
            self.up_free.append(0)
        return self.up_names[name]

    def downlink(self, name: str) -> int:
        """Index of a downlink, made when it is new."""
        if name not in self.down_names:
            self.down_names[name] = len(self.down_free)
            self.down_free.append(0)
        return self.down_names[name]


class Group:
    """The workers of a pool that share both links; -1 for no downlink in a first stage, no uplink in a
    last."""

    __slots__ = ("downlink", "heap", "uplink")

    def __init__(self, downlink: int, uplink: int) -> None:
        self.downlink: int = downlink
        self.uplink: int = uplink
        self.heap: list[tuple[int, int]] = []


class Pool:
    """Interchangeable workers of one stage. `free_us[w]`: when w is done with all that it has been given.

    A worker is in its group's heap at most once per free time; a lost or stalled one is in none.
    """

    __slots__ = (
        "busy", "done_us", "downlinks", "free_us", "group_key", "groups", "heap", "is_first", "is_last",
        "latency_us", "links", "lost", "names", "outstanding", "planned_us", "stalled", "transfer_us",
        "uplinks", "usable", "worker_group",
    )  # fmt: skip

    def __init__(
        self,
        stage: ServedStage,
        batch_size: int,
        transfer_us: int,
        is_first: bool,
        is_last: bool,
        links: Links,
    ) -> None:
        count = len(stage.workers)
        self.links: Links = links
        self.is_first: bool = is_first
        self.is_last: bool = is_last
        self.planned_us: int = stage.latency_us[batch_size - 1]
        self.transfer_us: int = transfer_us
        """Transfer of a planned batch into this stage: what the groups are ranked with."""
        self.latency_us: list[int] = list(stage.latency_us)
        self.names: list[str] = [worker.name for worker in stage.workers]
        self.uplinks: list[int] = [links.uplink(worker.uplink) for worker in stage.workers]
        self.downlinks: list[int] = [links.downlink(worker.downlink) for worker in stage.workers]
        self.free_us: list[int] = [0] * count
        self.done_us: list[int] = [0] * count
        """When w ended what it last completed."""
        self.outstanding: list[list[Reservation]] = [[] for _ in range(count)]
        self.lost: list[bool] = [False] * count
        self.stalled: list[bool] = [False] * count
        self.busy: int = 0
        """Workers with something outstanding."""
        self.usable: int = count
        """Workers that are not lost."""
        self.groups: list[Group] = []
        self.worker_group: list[int] = []
        self.group_key: list[int] = []
        """The one entry of a group in `heap` that counts."""
        self.heap: list[tuple[int, int]] = []
        self._make_groups()

    def _make_groups(self) -> None:
        index_of: dict[tuple[int, int], int] = {}
        for worker in range(len(self.names)):
            downlink = -1 if self.is_first else self.downlinks[worker]
            uplink = -1 if self.is_last else self.uplinks[worker]
            if (downlink, uplink) not in index_of:
                index_of[downlink, uplink] = len(self.groups)
                self.groups.append(Group(downlink, uplink))
            group = index_of[downlink, uplink]
            self.worker_group.append(group)
            self.groups[group].heap.append((0, worker))
        for group in range(len(self.groups)):
            self.group_key.append(self._key(group))
            heappush(self.heap, (self.group_key[group], group))

    def top_of(self, group: int) -> int:
        """The worker of `group` that is free first, or -1."""
        heap = self.groups[group].heap
        free_us = self.free_us
        while heap:
            entry = heap[0]
            worker = entry[1]
            if entry[0] == free_us[worker] and not self.lost[worker] and not self.stalled[worker]:
                return worker
            heappop(heap)
        return -1

    def _key(self, group: int) -> int:
        worker = self.top_of(group)
        if worker < 0:
            return NEVER
        key_us = self.free_us[worker]
        downlink = self.groups[group].downlink
        if downlink >= 0:
            key_us = max(key_us, self.links.down_free[downlink] + self.transfer_us)
        uplink = self.groups[group].uplink
        if uplink >= 0:
            key_us = max(key_us, self.links.up_free[uplink] - self.planned_us)
        return key_us

    def earliest(self) -> int:
        """The worker that could start first and then send at once; -1 when none is usable."""
        heap = self.heap
        while True:
            entry = heap[0]
            group = entry[1]
            if entry[0] != self.group_key[group]:
                heappop(heap)
                continue
            key = self._key(group)
            if key == entry[0]:
                return -1 if key == NEVER else self.top_of(group)
            self.group_key[group] = key
            heapreplace(heap, (key, group))

    def ready_us(self, worker: int) -> int:
        """When the worker given by `earliest` could start and then send at once."""
        return self.group_key[self.worker_group[worker]]

    def set_free(self, worker: int, free_us: int) -> None:
        """Record when a worker is free; a fall is announced to the heaps, a rise is found at the top."""
        fell = free_us < self.free_us[worker]
        self.free_us[worker] = free_us
        if self.lost[worker] or self.stalled[worker]:
            return
        group = self.worker_group[worker]
        heappush(self.groups[group].heap, (free_us, worker))
        if fell:
            self._announce(group)

    def set_usable(self, worker: int, lost: bool, stalled: bool) -> None:
        """Take a worker out of the heaps, or put it back."""
        self.usable += int(self.lost[worker]) - int(lost)
        self.lost[worker] = lost
        self.stalled[worker] = stalled
        if not lost and not stalled:
            group = self.worker_group[worker]
            heappush(self.groups[group].heap, (self.free_us[worker], worker))
            self._announce(group)

    def _announce(self, group: int) -> None:
        """Let a group whose key may have fallen surface in time."""
        self.group_key[group] = self._key(group)
        heappush(self.heap, (self.group_key[group], group))


class PipelineTimelines:
    """The pools of one pipeline. `path_us[b - 1]`: b frames through idle workers and links."""

    __slots__ = ("batch_size", "index", "max_batch", "path_us", "pools", "transfer_us")

    def __init__(self, index: int, served: ServedPipeline, links: Links) -> None:
        self.index: int = index
        self.batch_size: int = served.batch_size
        self.transfer_us: list[list[int]] = [list(hop) for hop in served.transfer_us]
        self.max_batch: int = min(
            min(len(stage.latency_us) for stage in served.stages),
            min((len(hop) for hop in served.transfer_us), default=NEVER),
        )
        self.pools: list[Pool] = []
        for position, stage in enumerate(served.stages):
            into = 0 if position == 0 else served.transfer_us[position - 1][served.batch_size - 1]
            is_last = position == len(served.stages) - 1
            self.pools.append(Pool(stage, served.batch_size, into, position == 0, is_last, links))
        self.path_us: list[int] = [
            sum(stage.latency_us[b] for stage in served.stages) + sum(hop[b] for hop in served.transfer_us)
            for b in range(self.max_batch)
        ]

    def usable(self) -> bool:
        """Whether every stage has a worker."""
        return all(pool.usable != 0 for pool in self.pools)
