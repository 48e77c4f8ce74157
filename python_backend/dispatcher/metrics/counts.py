"""What a dispatcher counts. Plain integers, written by several threads without locks where one more or less
is no harm.

The metrics exporter reads a snapshot now and then, so that counting costs the hot path next to nothing.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from typing import NamedTuple

from planner.serving import ServedModel
from python_backend.scheduler.actions import DropReason
from python_backend.wire.hop_failure import FailureKind

_SLO_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0)


class LateBatch(NamedTuple):
    """A batch with a frame that was answered late. slos: after how many; at_s: by the calendar's clock."""

    batch_id: int
    slos: float
    at_s: float


class Counts:
    """Counters since the start. latency_counts[i]: answers within latency_shares[i] of the SLO, the last one
    the rest.

    What is a share of the SLO is one of the SLO that was served then: another table may bring another.
    """

    def __init__(self, served: ServedModel) -> None:
        self.arrived = 0
        self.frame_bytes = 0
        """Of all that arrived."""
        self.in_time = 0
        self.late = 0
        self.unusable = 0
        """Frames that could not be prepared: their callers' faults."""
        self.drops: dict[DropReason, int] = dict.fromkeys(DropReason, 0)
        """But for frames that were superseded, which nobody misses."""
        del self.drops[DropReason.SUPERSEDED]
        self.superseded = 0
        self.failures: dict[FailureKind, int] = dict.fromkeys(FailureKind, 0)
        self.batch_sizes: dict[int, int] = {}
        self.worker_batches: dict[str, int] = {}
        self.worker_busy_us: dict[str, int] = {}
        self.decisions = 0
        self.decision_us = 0
        self.slo_us = served.slo_us
        self.latency_shares = _SLO_SHARES
        self.latency_counts = [0] * (len(_SLO_SHARES) + 1)
        self.latency_sum_us = 0
        self.latency_sum_slos = 0.0
        self.late_batches: dict[int, LateBatch] = {}
        """By place in latency_counts: the last frame there that was late."""
        self._lock = threading.Lock()

    def serve_by(self, slo_us: int) -> None:
        """Answers from now on are measured by this SLO."""
        self.slo_us = slo_us

    def dispatched(self, frames: int) -> None:
        """A batch was sent. By whose turn it is at the core."""
        self.batch_sizes[frames] = self.batch_sizes.get(frames, 0) + 1

    def decided(self, took_us: int) -> None:
        """The core handled an event. By whose turn it is at the core."""
        self.decisions += 1
        self.decision_us += took_us

    def dropped(self, reason: DropReason) -> None:
        """A frame was dropped. By whose turn it is at the core."""
        if reason is DropReason.SUPERSEDED:
            self.superseded += 1
        else:
            self.drops[reason] += 1

    def answered(self, latency_us: int, in_time: bool, batch_id: int = -1) -> None:
        """A frame of a batch was answered with outputs."""
        slos = latency_us / self.slo_us
        with self._lock:
            bucket = bisect_left(self.latency_shares, slos)
            if in_time:
                self.in_time += 1
            else:
                self.late += 1
                self.late_batches[bucket] = LateBatch(batch_id, slos, time.time())
            self.latency_counts[bucket] += 1
            self.latency_sum_us += latency_us
            self.latency_sum_slos += slos

    def stage_ended(self, worker: str, busy_us: int) -> None:
        """A worker ended a batch. By whose turn it is at the core."""
        self.worker_batches[worker] = self.worker_batches.get(worker, 0) + 1
        self.worker_busy_us[worker] = self.worker_busy_us.get(worker, 0) + busy_us

    def failed(self, kind: FailureKind) -> None:
        """An attempt of a batch failed."""
        with self._lock:
            self.failures[kind] += 1
