"""One worker of a stage: takes batches with tickets (stage.intake), runs them one at a time, and has their
outputs passed on (stage.answering).

Rules
- One compute thread. It takes waiting batches by (reserved start, batch, attempt) and never idles while one
  waits.
- A batch that can no longer finish by its deadline is refused, unless the model's late policy is to serve it.
- When compute ends, the dispatcher is told first, then the compute thread goes on (stage.answering).
- A worker of a padded or emulated class is held until its profiled latency is over. A held worker that was
  kept waiting for nothing starts its next batch where the last one ended, as a GPU with a queue does, so that
  wake-up delays of this host do not add up.
- A first stage's batch of clients' frames is prepared before it waits for the worker (stage.preparing).
- Of batches that wait, being prepared or prepared, there are at most MOST_WAITING; more are refused.
- Every job's reply is used exactly once, whatever happens.
- A worker whose program fails on a frame of zeros too says so to probes, until a batch is computed again.
"""

from __future__ import annotations

import functools
import heapq
import random
import threading
from collections.abc import Callable, Sequence
from typing import Final

from planner.cluster import Executor as Kind
from planner.places import StagePlace
from python_backend.stage.answering import Answering
from python_backend.stage.executors.base import StageExecutor
from python_backend.stage.intake import StageIntake
from python_backend.stage.jobs import BatchJob, Finish, Reply
from python_backend.stage.preparing import TOO_LATE, Prepared, Preparer
from python_backend.wire import kserve
from python_backend.wire.clock import now_us, sleep_until
from python_backend.wire.clocks import SAME_CLOCK, EntryClocks
from python_backend.wire.feedback import Notice
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.kserve import Array, Buffer
from python_backend.wire.shm.reader import CannotRead
from python_backend.wire.signing.keys import Keys, TicketError
from python_backend.wire.threads import Bell
from python_backend.wire.transport import Transport

MOST_WAITING: Final = 256
"""Batches. A dispatcher reserves one at a time, and sends the next while that one runs."""
_MOST_PREPARING: Final = 16
"""Batches; a dispatcher sends one ahead of the one that is computed."""
_STUCK_FACTOR: Final = 5
_STUCK_FLOOR_US: Final = 2_000_000


class StageWorker:
    """See the module. Thread-safe."""

    def __init__(
        self,
        place: StagePlace,
        executor: StageExecutor,
        transport: Transport,
        keys: Keys,
        notify: Callable[[str, Notice], None],
        log: Callable[[str], None],
        jitter: float = 0.0,
        on_close: Callable[[], None] = lambda: None,
        preparer: Preparer | None = None,
        finish: Finish | None = None,
        clocks: EntryClocks = SAME_CLOCK,
    ) -> None:
        """notify: the dispatcher on an entry server. clocks: what is known of entry servers'. preparer: of a
        first stage that gets clients' frames. finish: of a last stage, if there is any.
        """
        self._place = place
        self.refused = 0
        """Tickets that were not for this place, not genuine, or used before."""
        self._executor = executor
        self._transport = transport
        self._intake = StageIntake(place, keys, clocks)
        self._answering = Answering(place, transport, notify, log, finish)
        self._jitter = jitter
        self._on_close = on_close
        self._preparer = preparer
        self._preparing: dict[int, BatchJob] = {}
        """By number: what is neither waiting for the worker nor refused yet."""
        self._random = random.Random(place.worker)
        self._waiting: list[tuple[tuple[int, int, int], int, BatchJob]] = []
        self._sequence = 0
        self._lock = threading.Lock()
        self._bell = Bell()
        """Rings for the compute thread when a batch waits, and at the end."""
        self._closing = False
        self._busy_since_us: int | None = None
        self._broken = ""
        self._free_us = 0
        self._compute = threading.Thread(target=self._run, name="compute", daemon=True)
        self._compute.start()

    def submit(self, ticket_text: str | None, inputs: list[Array], reply: Reply, shared: int = 0) -> None:
        """Take one request. Its reply is used now or later, once. shared: frames that lie in shared memory,
        where the ticket says, instead of in `inputs`.
        """
        arrived_us = now_us()
        try:
            wire = self._intake.ticket(ticket_text, arrived_us)
            inputs = self._intake.tensors(wire, inputs, shared)
        except (TicketError, ValueError, CannotRead, HopFailure) as error:
            self._not_taken(reply, error)
            return
        if wire.is_probe:
            self._answer_probe(len(inputs[0]), reply)
            return
        self._enqueue(BatchJob(wire, len(inputs[0]), inputs, reply, arrived_us))

    def submit_frames(self, ticket_text: str | None, bodies: Sequence[Buffer], reply: Reply) -> None:
        """As `submit`, for clients' frames: in `bodies`, or, where these are empty, in shared memory."""
        arrived_us = now_us()
        try:
            wire = self._intake.ticket(ticket_text, arrived_us)
            if wire.is_probe:
                self._answer_probe(len(bodies), reply)
                return
            frames = self._intake.frames(wire, bodies)
        except (TicketError, ValueError, CannotRead, HopFailure) as error:
            self._not_taken(reply, error)
            return
        job = BatchJob(wire, len(frames), [], reply, arrived_us)
        if self._is_hopeless(job, arrived_us):
            self._answering.fail(job, FailureKind.EXPIRED, TOO_LATE)
            return
        if len(self._preparing) >= _MOST_PREPARING:
            self._answering.fail(job, FailureKind.EXPIRED, _TOO_MANY)
            return
        assert self._preparer is not None
        with self._lock:
            full = self._is_full()
            self._sequence += 1
            number = self._sequence
            if not full:
                self._preparing[number] = job
        if full:
            self._answering.fail(job, FailureKind.EXPIRED, _FULL)
            return
        take = functools.partial(self._take_prepared, number)
        self._preparer.begin(wire.ingress, frames, take, self._latest_us(job))

    def _take_prepared(self, number: int, prepared: Prepared) -> None:
        with self._lock:
            job = self._preparing.pop(number, None)
        if job is None:  # it was refused meanwhile
            return
        if prepared.failed is not None:
            self._answering.fail(job, *prepared.failed)
        else:
            job.inputs = prepared.inputs
            job.faults = prepared.faults
            job.ready_us = now_us()
            self._enqueue(job)

    def _enqueue(self, job: BatchJob) -> None:
        """Have a batch wait for the worker."""
        with self._lock:
            closing = self._closing
            full = not closing and self._is_full()
            if not closing and not full:
                self._sequence += 1
                heapq.heappush(self._waiting, (job.order, self._sequence, job))
        if closing:
            self._answering.refuse(job.reply, FailureKind.UNREACHABLE, _CLOSING, job.wire.hop)
        elif full:
            self._answering.fail(job, FailureKind.EXPIRED, _FULL)
        else:
            self._bell.ring()

    def _is_full(self) -> bool:
        return len(self._waiting) + len(self._preparing) >= MOST_WAITING

    def close(self) -> None:
        """Finish the batch that runs, refuse those that wait, end all threads."""
        with self._lock:
            self._closing = True
            left = [job for _, _, job in self._waiting] + list(self._preparing.values())
            self._waiting.clear()
            self._preparing.clear()
        self._bell.ring()
        for job in left:
            self._answering.refuse(job.reply, FailureKind.UNREACHABLE, _CLOSING, job.wire.hop)
        if self._preparer is not None:
            self._preparer.close()
        self._compute.join()
        self._answering.close()
        self._on_close()
        self._transport.close()
        self._intake.close()

    def _not_taken(self, reply: Reply, error: Exception) -> None:
        """Answer a request of which no batch comes. error: a HopFailure says it all."""
        if isinstance(error, HopFailure):
            self._answering.say(reply, error)
        elif isinstance(error, CannotRead):
            self._answering.refuse(reply, FailureKind.NO_MEMORY, str(error))
        else:
            with self._lock:
                self.refused += int(isinstance(error, TicketError))
            self._answering.refuse(reply, FailureKind.REFUSED, str(error))

    def _answer_probe(self, batch: int, reply: Reply) -> None:
        busy_since_us = self._busy_since_us
        allowed_us = max(_STUCK_FLOOR_US, _STUCK_FACTOR * self._place.latency_us[-1])
        if busy_since_us is not None and now_us() - busy_since_us > allowed_us:
            stuck_us = now_us() - busy_since_us
            self._answering.refuse(
                reply, FailureKind.TIMED_OUT, f"one batch has been running for {stuck_us} us"
            )
            return
        if self._broken:
            self._answering.refuse(reply, FailureKind.COMPUTE, self._broken)
            return
        specs = self._place.probe_answers
        reply.outputs({spec.name: kserve.zeros_of(spec, batch) for spec in specs})

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._serve(job)
            except Exception as error:
                self._broken = self._fails_on_zeros()
                self._answering.fail(job, FailureKind.COMPUTE, f"{type(error).__name__}: {error}")
            finally:
                self._busy_since_us = None
            del job

    def _fails_on_zeros(self) -> str:
        """What the program says to a frame of zeros, '' where it computes it: then the batch was to blame."""
        frame = [kserve.zeros_of(spec, 1) for spec in self._place.program.inputs]
        try:
            self._executor.run(frame)
        except Exception as error:  # whatever a program raises is what probes are to be told
            return f"{type(error).__name__}: {error}"
        return ""

    def _next(self) -> BatchJob | None:
        while True:
            with self._lock:
                if self._waiting:
                    return heapq.heappop(self._waiting)[2]
                if self._closing:
                    return None
            self._bell.wait()

    def _serve(self, job: BatchJob) -> None:
        began_us = now_us()
        self._busy_since_us = began_us
        if self._is_hopeless(job, began_us):
            self._answering.fail(job, FailureKind.EXPIRED, TOO_LATE)
            return
        if self._intake.is_forsaken(job):
            self._answering.fail(job, FailureKind.EXPIRED, "its sender has given it up")
            return
        stays = job.stays_on_device
        outputs = self._executor.run_on_device(job.inputs) if stays else self._executor.run(job.inputs)
        self._broken = ""
        ended_us = self._hold(job)
        self._answering.tell(job, ok=True, ended_us=ended_us, busy_us=ended_us - began_us)
        self._answering.computed(job, outputs, others_wait=len(self._waiting) > 0)

    def _is_hopeless(self, job: BatchJob, at_us: int) -> bool:
        """Whether what this and the later stages need, transfers and queues aside, ends after the
        deadline.
        """
        latest_us = self._latest_us(job)
        return latest_us is not None and at_us > latest_us

    def _latest_us(self, job: BatchJob) -> int | None:
        """When the worker must have begun; None where the batch is served however late it is."""
        if self._place.serves_late:
            return None
        assert job.wire.ticket is not None
        return job.wire.ticket.deadline_us - job.wire.rest_us

    def _hold(self, job: BatchJob) -> int:
        """Keep the worker until its latency is over; returns when it was free."""
        program = self._place.program
        if not (program.padded or program.executor is Kind.EMULATED):
            self._free_us = now_us()
            return self._free_us
        latency_us = self._place.latency_us[min(job.batch, len(self._place.latency_us)) - 1]
        if self._jitter:
            latency_us = round(latency_us * max(0.0, self._random.gauss(1.0, self._jitter)))
        end_us = max(job.ready_us, self._free_us) + latency_us
        sleep_until(end_us)
        # A compute that took longer than the stated latency, or a host that was late by more than a wake-up.
        self._free_us = max(end_us, now_us() - _WAKE_UP_US)
        return self._free_us


_CLOSING: Final = "the stage is shutting down"
_FULL = f"{MOST_WAITING} batches wait here already"
_TOO_MANY = f"{_MOST_PREPARING} batches wait here to be prepared already"
_WAKE_UP_US: Final = 1_000
"""Lateness of a sleeping thread that is this host's, not the emulated worker's."""
