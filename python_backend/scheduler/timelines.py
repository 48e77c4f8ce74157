"""Reserved time of workers.

Rules: a worker is reserved in commit order and never before its free time, so intervals never overlap;
free times only fall when a stage ends early, a batch fails, or a worker comes back. The earliest worker of
a pool is found without a scan: workers that share their links form a group, groups and the workers in each
sit in heaps whose stale entries are corrected when they surface. Groups are looked through only where a link
delays the earliest.
"""

from __future__ import annotations

from heapq import heappop, heappush, heapreplace
from typing import Final

from planner.serving import ServedPipeline, ServedStage
from python_backend.scheduler.batches import Reservation
from python_backend.scheduler.ingress import BatchLoad, Cores, Entry, PipelineEnds
from python_backend.scheduler.links import AS_PLANNED, Links, paced_us

NEVER: Final = (1 << 62) - 1
"""A time that does not come."""


class Group:
    """The workers of a pool that share both links, and in a first stage their server's cores; -1 for no
    downlink in a first stage that gets nothing counted, no uplink in a last."""

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
        "busy", "done_us", "downlinks", "free_us", "group_key", "groups", "heap", "held_us", "hosts",
        "is_first", "is_last", "latency_us", "links", "lost", "names", "out_us", "outstanding", "planned_us",
        "stalled", "uplinks", "usable", "worker_group",
    )  # fmt: skip

    def __init__(
        self,
        stage: ServedStage,
        batch_size: int,
        out_us: int,
        is_first: bool,
        is_last: bool,
        links: Links,
        cores: Cores | None = None,
    ) -> None:
        """cores: of servers that prepare, of a first stage into which frames are counted."""
        count = len(stage.workers)
        self.links: Links = links
        self.is_first: bool = is_first
        self.is_last: bool = is_last
        self.planned_us: int = stage.latency_us[batch_size - 1]
        self.out_us: int = out_us
        """Transfer of a planned batch out of this stage; 0 for a last one."""
        self.latency_us: list[int] = list(stage.latency_us)
        self.names: list[str] = [worker.name for worker in stage.workers]
        self.uplinks: list[int] = [links.uplink(worker.uplink) for worker in stage.workers]
        self.downlinks: list[int] = [links.downlink(worker.downlink) for worker in stage.workers]
        self.hosts: list[int] = [
            -1 if cores is None else cores.host(worker.server) for worker in stage.workers
        ]
        """Per worker the index of its server's cores, -1 where they are not counted."""
        self.free_us: list[int] = [0] * count
        self.done_us: list[int] = [0] * count
        """When w ended what it last completed."""
        self.held_us: list[int] = [0] * count
        """Until when batches of another table hold w."""
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
        self._make_groups(cores is not None)

    def _make_groups(self, fed: bool) -> None:
        index_of: dict[tuple[int, int, int], int] = {}
        for worker in range(len(self.names)):
            downlink = -1 if self.is_first and not fed else self.downlinks[worker]
            uplink = -1 if self.is_last else self.uplinks[worker]
            key = (downlink, uplink, self.hosts[worker])
            if key not in index_of:
                index_of[key] = len(self.groups)
                self.groups.append(Group(downlink, uplink))
            group = index_of[key]
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
        free_us = self.free_us[worker]
        if not self.is_first:
            return free_us
        start_us = max(free_us, self.links.now_us)
        clear_us = self._clear_us(group, start_us)
        # Not start_us: the keys of idle groups must not change with time.
        return free_us if clear_us == start_us else clear_us

    def _clear_us(self, group: int, start_us: int) -> int:
        """When a planned batch may start, from `start_us` on, so that it is sent as soon as it ends."""
        if self.out_us == 0:
            return start_us
        end_us = start_us + self.planned_us
        return self.links.gap_us(self.groups[group].uplink, end_us, self.out_us) - self.planned_us

    def receiver(self, uplink: int, ready_us: int, transfer_us: int) -> tuple[int, int]:
        """For what `uplink` can send from `ready_us` on: the worker that could start on it first and then
        send at once, and when the transfer starts; (-1, 0) when no worker is usable."""
        worker = self.earliest()
        if worker < 0:
            return -1, 0
        links = self.links
        best_us = NEVER
        best = -1
        best_sent_us = 0
        least_us = links.gap_us(uplink, ready_us, transfer_us) + transfer_us
        group = self.worker_group[worker]
        scanned = 0
        while True:
            free_us = self.free_us[worker]
            sent_us = links.fit_us(uplink, self.downlinks[worker], ready_us, transfer_us, transfer_us)
            clear_us = self._clear_us(group, max(sent_us + transfer_us, free_us))
            if best < 0 and clear_us == max(least_us, free_us):
                return worker, sent_us
            if clear_us < best_us:
                best_us, best, best_sent_us = clear_us, worker, sent_us
            worker = -1
            while scanned < len(self.groups) and worker < 0:
                group = scanned
                worker = self.top_of(group)
                scanned += 1
            if worker < 0:
                return best, best_sent_us

    def fed(self, ends: PipelineEnds, entry: Entry, load: BatchLoad, now_us: int) -> tuple[int, int]:
        """For a batch that the entry can send from `now_us` on: the worker of this first stage that could
        start on it first and then send at once, and when the transfer starts; (-1, 0) when no worker is
        usable."""
        worker = self.earliest()
        if worker < 0:
            return -1, 0
        links = self.links
        up_us = paced_us(ends.entry_wire_us(load.frame_bytes), links.up_pace[entry.uplink])
        wire_us = ends.server_wire_us(load.frame_bytes)
        plain_us = ends.transfer_us(load.frame_bytes)
        transfer_us = paced_us(plain_us, links.up_pace[entry.uplink])
        least_us = links.gap_us(entry.uplink, now_us, up_us) + transfer_us
        least_us = entry.cores.ready_us(-1, least_us, load.prepare_us)
        best_us = NEVER
        best = -1
        best_sent_us = 0
        group = self.worker_group[worker]
        scanned = 0
        while True:
            free_us = self.free_us[worker]
            downlink = self.downlinks[worker]
            transfer_us = paced_us(plain_us, links.pace(entry.uplink, downlink))
            down_us = paced_us(wire_us, links.down_pace[downlink])
            sent_us = links.fit_us(entry.uplink, downlink, now_us, up_us, down_us)
            ready_us = entry.cores.ready_us(self.hosts[worker], sent_us + transfer_us, load.prepare_us)
            clear_us = self._clear_us(group, max(ready_us, free_us))
            if best < 0 and clear_us == max(least_us, free_us):
                return worker, sent_us
            if clear_us < best_us:
                best_us, best, best_sent_us = clear_us, worker, sent_us
            worker = -1
            while scanned < len(self.groups) and worker < 0:
                group = scanned
                worker = self.top_of(group)
                scanned += 1
            if worker < 0:
                return best, best_sent_us

    def pace(self, entry: Entry) -> int:
        """Of the slowest way from the entry to a worker of this first stage."""
        if not self.links.slow:
            return AS_PLANNED
        pace = self.links.up_pace[entry.uplink]
        for group in self.groups:
            if group.downlink >= 0:
                pace = max(pace, self.links.down_pace[group.downlink])
        return pace

    def earliest(self) -> int:
        """The worker that is free first, of a first stage the one that could start first and then send at
        once; -1 when none is usable."""
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
    """The pools of one pipeline. `path_us[b - 1]`: b frames through idle workers and links, the way in and
    out excluded."""

    __slots__ = ("batch_size", "ends", "index", "path_us", "pools", "transfer_us")

    def __init__(self, index: int, served: ServedPipeline, links: Links, entry: Entry | None = None) -> None:
        self.index: int = index
        self.batch_size: int = served.batch_size
        self.transfer_us: list[list[int]] = [list(hop) for hop in served.transfer_us]
        max_batch = min(
            min(len(stage.latency_us) for stage in served.stages),
            min((len(hop) for hop in served.transfer_us), default=NEVER),
        )
        self.pools: list[Pool] = []
        for position, stage in enumerate(served.stages):
            is_last = position == len(served.stages) - 1
            out_us = 0 if is_last else served.transfer_us[position][served.batch_size - 1]
            cores = entry.cores if entry is not None and position == 0 else None
            self.pools.append(Pool(stage, served.batch_size, out_us, position == 0, is_last, links, cores))
        self.ends: PipelineEnds | None = None
        if served.ends is not None and entry is not None:
            there = [len(entry.cores.free_us[host]) for host in self.pools[0].hosts if host >= 0]
            self.ends = PipelineEnds(served.ends, min(there, default=0))
        self.path_us: list[int] = [
            sum(stage.latency_us[b] for stage in served.stages) + sum(hop[b] for hop in served.transfer_us)
            for b in range(max_batch)
        ]

    def way_us(self, batch_size: int, entry: Entry | None, pace: int = AS_PLANNED) -> int:
        """So many mean frames there and back, everything idle. pace: of the way from the entry."""
        ends = self.ends
        if ends is None or entry is None:
            return self.path_us[batch_size - 1]
        return ends.lead_us(entry, batch_size, pace) + self.path_us[batch_size - 1] + ends.back_us(batch_size)

    def usable(self) -> bool:
        """Whether every stage has a worker."""
        return all(pool.usable != 0 for pool in self.pools)
