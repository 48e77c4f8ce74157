"""What really happens to a batch: its stages' true durations, when latency varies.

Rules: workers serve in reserved order, links and cores what is ready first, and all start as soon as they
can, never before the dispatch; without jitter that is what was reserved. Durations are the reserved ones
times a factor of mean about 1. Links know no shares: a transfer waits for whatever is on them, of other
models too where several executions have them in common.
"""

from __future__ import annotations

import random

from planner.serving import ServedModel
from python_backend.scheduler.actions import Ticket
from python_backend.scheduler.batches import Reservation
from python_backend.scheduler.ingress import BatchLoad, Cores, Entry, PipelineEnds
from python_backend.scheduler.links import Links
from python_backend.simulator.jitter import Jitter


class Execution:
    """True times of workers and links, beside the core's predicted ones."""

    def __init__(
        self, served: ServedModel, jitter: Jitter, links: Links | None = None, cores: Cores | None = None
    ) -> None:
        """links, cores: those that other models use too."""
        self.jitter: Jitter = jitter
        self.rng: random.Random = random.Random(jitter.seed)
        self.shares: list[list[float]] = [[jitter.share] * len(one.stages) for one in served.pipelines]
        self.factors: list[list[float]] = [[1.0] * len(one.stages) for one in served.pipelines]
        if jitter.stages:
            self.shares = [[stage.share for stage in pipeline] for pipeline in jitter.stages]
            self.factors = [[stage.factor for stage in pipeline] for pipeline in jitter.stages]
        self.worker_free: dict[str, int] = {}
        self.links: Links = links if links is not None else Links()
        self.entry: Entry | None = None if served.entry is None else Entry(served.entry, self.links)
        if self.entry is not None and cores is not None:
            self.entry.cores = cores
        self.ends: list[PipelineEnds | None] = [
            None if pipeline.ends is None else PipelineEnds(pipeline.ends, 0) for pipeline in served.pipelines
        ]
        self.host: dict[str, int] = {}
        self.answered_us: int = 0
        """When the answers of the ticket that was run last are back."""
        self.uplink: dict[str, int] = {}
        self.downlink: dict[str, int] = {}
        for pipeline in served.pipelines:
            for stage in pipeline.stages:
                for worker in stage.workers:
                    self.uplink[worker.name] = self.links.uplink(worker.uplink)
                    self.downlink[worker.name] = self.links.downlink(worker.downlink)
                    if self.entry is not None:
                        self.host[worker.name] = self.entry.cores.host(worker.server)

    def run(self, ticket: Ticket, now_us: int, load: BatchLoad | None = None) -> list[int]:
        """When each stage of a ticket sent now truly ends. load: what its frames bring, where that counts."""
        self.links.now_us = now_us
        ends: list[int] = []
        stage = ticket.first_stage
        shares, factors = self.shares[ticket.pipeline], self.factors[ticket.pipeline]
        ready_us = now_us
        sender = ""
        for hop in ticket.hops:
            if sender:
                length_us = hop.transfer_end_us - hop.transfer_start_us
                uplink, downlink = self.uplink[sender], self.downlink[hop.worker]
                ready_us = self._transfer(uplink, downlink, ready_us, length_us, length_us) + length_us
            elif load is not None:
                ready_us = self._fed(ticket.pipeline, hop.worker, ready_us, load)
            start_us = max(ready_us, self.worker_free.get(hop.worker, 0))
            planned_us = hop.end_us - hop.start_us
            ready_us = start_us + self._duration_us(planned_us, shares[stage], factors[stage])
            stage += 1
            self.worker_free[hop.worker] = ready_us
            ends.append(ready_us)
            sender = hop.worker
        self.answered_us = ready_us
        if load is not None:
            self._answer(ticket.pipeline, sender, ready_us, len(load.prepare_us))
        return ends

    def _fed(self, pipeline: int, worker: str, now_us: int, load: BatchLoad) -> int:
        """When a batch that the entry sends now is prepared."""
        entry, ends = self.entry, self.ends[pipeline]
        assert entry is not None
        assert ends is not None
        size = load.frame_bytes
        up_us, down_us = ends.entry_wire_us(size), ends.server_wire_us(size)
        there_us = self._transfer(entry.uplink, self.downlink[worker], now_us, up_us, down_us)
        there_us += ends.transfer_us(size)
        prepare_us = [
            self._duration_us(frame_us, self.jitter.share, 1.0) if frame_us else 0
            for frame_us in load.prepare_us
        ]
        ready_us = entry.cores.ready_us(self.host[worker], there_us, prepare_us)
        entry.cores.take(self.host[worker], there_us, prepare_us)
        return ready_us

    def _answer(self, pipeline: int, worker: str, ended_us: int, batch_size: int) -> None:
        entry, ends = self.entry, self.ends[pipeline]
        assert entry is not None
        assert ends is not None
        index = batch_size - 1
        ready_us = ended_us + ends.finish_us[index]
        up_us, down_us = ends.answer_server_us[index], ends.answer_entry_us[index]
        sent_us = self._transfer(self.uplink[worker], entry.downlink, ready_us, up_us, down_us)
        self.answered_us = sent_us + ends.answer_us[index]

    def _transfer(self, uplink: int, downlink: int, ready_us: int, up_us: int, down_us: int) -> int:
        """When a transfer that is ready at `ready_us` and takes so much of its links' time starts."""
        start_us = self.links.fit_us(uplink, downlink, ready_us, up_us, down_us)
        taken = Reservation(0, 0, 0)
        taken.uplink = uplink
        taken.downlink = downlink
        taken.transfer_start_us = start_us
        taken.up_wire_us = up_us
        taken.down_wire_us = down_us
        self.links.add(taken)
        return start_us

    def _duration_us(self, planned_us: int, share: float, factor: float) -> int:
        jitter = self.jitter
        if share > 0:
            factor *= max(0.1, self.rng.gauss(1.0, share))
        if jitter.straggler_probability > 0 and self.rng.random() < jitter.straggler_probability:
            factor *= jitter.straggler_factor
        return max(1, round(planned_us * factor))
