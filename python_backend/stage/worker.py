"""One worker of a stage: takes batches with tickets, runs them one at a time, passes results on.

Rules
- One compute thread. It takes waiting batches by (reserved start, batch, attempt) and never idles while one
  waits.
- A batch that can no longer finish by its deadline is refused, unless the model's late policy is to serve it.
- When compute ends, the dispatcher is told first, then the compute thread goes on; forwarding threads carry
  the outputs to the next stage, and the final outputs back.
- A worker of a padded or emulated class is held until its profiled latency is over. A held worker that was
  kept waiting for nothing starts its next batch where the last one ended, as a GPU with a queue does, so that
  wake-up delays of this host do not add up.
- A first stage's batch of clients' frames is prepared before it waits for the worker (stage.preparing). A
  frame that could not be used went on as zeros; the answer says which (STATUS).
- What the last stage answers is finished, where the model says so, off the compute thread.
- A ticket is good once, and for the tensors that it was signed for (wire.signing.replays, wire.signing.keys).
- A batch of an owner that another has replaced is refused (stage.fences): workers tell owners of that.
- Of batches that wait, being prepared or prepared, there are at most MOST_WAITING; more are refused.
- Every job's reply is used exactly once, whatever happens.
- A worker whose program fails on a frame of zeros too says so to probes, until a batch is computed again.
"""

from __future__ import annotations

import functools
import heapq
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np

from planner.cluster import Executor as Kind
from planner.manifest import STATUS
from planner.places import StagePlace
from planner.profile import TensorSpec
from python_backend.stage.executors.base import StageExecutor
from python_backend.stage.fences import Fences
from python_backend.stage.preparing import TOO_LATE, Prepared, Preparer
from python_backend.wire import graces, kserve, ticket_codec
from python_backend.wire.clock import now_us, sleep_until
from python_backend.wire.clocks import SAME_CLOCK, EntryClocks
from python_backend.wire.feedback import Notice
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.kserve import Array, Buffer
from python_backend.wire.ragged import FrameInfo, body_of, status_array
from python_backend.wire.shm.reader import CannotRead, SharedReader
from python_backend.wire.signing.keys import Keys, TicketError, wall_us
from python_backend.wire.signing.replays import UsedTickets
from python_backend.wire.threads import Crew
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import Awaited, Pieces, Transport

_FORWARDERS: Final = 16
MOST_WAITING: Final = 256
"""Batches. A dispatcher reserves one at a time, and sends the next while that one runs."""
_MOST_PREPARING: Final = 16
"""Batches; a dispatcher sends one ahead of the one that is computed."""
_STUCK_FACTOR: Final = 5
_STUCK_FLOOR_US: Final = 2_000_000


class Reply(Protocol):
    """Where the answer to one request goes; the first of the two calls that does not raise counts."""

    def outputs(self, outputs: Mapping[str, Array]) -> None:
        """Answer with tensors. Raises what keeps them from being sent."""

    def failure(self, failure: HopFailure) -> None:
        """Answer with an error."""


Finish = Callable[[Mapping[str, Array], Sequence[FrameInfo]], Mapping[str, Array]]
"""The model's outputs, and the frames as their clients sent them, to answers."""


class BatchJob:
    """A batch on this worker. `inputs` may be views that stay valid until the reply. ready_us: when it could
    first be computed. faults: what is wrong with which frame.
    """

    def __init__(
        self, wire: WireTicket, batch: int, inputs: list[Array], reply: Reply, ready_us: int
    ) -> None:
        self.wire = wire
        self.batch = batch
        self.inputs = inputs
        self.reply = reply
        self.ready_us = ready_us
        self.faults: Mapping[int, str] = {}

    @property
    def order(self) -> tuple[int, int, int]:
        """The order in which the dispatcher reserved."""
        assert self.wire.ticket is not None
        ticket = self.wire.ticket
        return ticket.hops[self.wire.hop].start_us, ticket.batch_id, ticket.attempt


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
        self._grace_us = graces.stage_us(place.serves_late)
        self.refused = 0
        """Tickets that were not for this place, not genuine, or used before."""
        self._executor = executor
        self._transport = transport
        self._keys = keys
        self._clocks = clocks
        self._notify = notify
        self._log = log
        self._jitter = jitter
        self._on_close = on_close
        self._preparer = preparer
        self._finish = finish
        self._preparing: dict[int, BatchJob] = {}
        """By number: what is neither waiting for the worker nor refused yet."""
        self._random = random.Random(place.worker)
        self._memory = SharedReader()
        self._used = UsedTickets(wall_us())
        self._fences = Fences()
        self._waiting: list[tuple[tuple[int, int, int], int, BatchJob]] = []
        self._sequence = 0
        self._wake = threading.Condition()
        self._closing = False
        self._busy_since_us: int | None = None
        self._broken = ""
        self._free_us = 0
        self._forwarders = Crew("forward", _FORWARDERS, lambda error: log(f"forwarding failed: {error!r}"))
        self._compute = threading.Thread(target=self._run, name="compute", daemon=True)
        self._compute.start()

    def submit(self, ticket_text: str | None, inputs: list[Array], reply: Reply, shared: int = 0) -> None:
        """Take one request. Its reply is used now or later, once. shared: frames that lie in shared memory,
        where the ticket says, instead of in `inputs`.
        """
        arrived_us = now_us()
        try:
            wire = self._checked_ticket(ticket_text, arrived_us)
            if shared and wire.frames is not None:
                inputs = self._memory.arrays(wire.frames, self._place.program.inputs, shared)
            check_inputs(self._place.program.inputs, inputs, self._place.program.max_batch_size)
            self._use(wire, [kserve.piece(array) for array in inputs] if wire.digest else ())
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
            wire = self._checked_ticket(ticket_text, arrived_us)
            if wire.is_probe:
                self._answer_probe(len(bodies), reply)
                return
            check_frames(wire.ingress, bodies, wire.frames is not None, self._place.program.max_batch_size)
            frames = bodies
            if wire.frames is not None:
                frames = self._memory.pieces(wire.frames, [info.size for info in wire.ingress])
            self._use(wire, body_of([[body] for body in bodies])[0] if wire.digest else ())
        except (TicketError, ValueError, CannotRead, HopFailure) as error:
            self._not_taken(reply, error)
            return
        job = BatchJob(wire, len(frames), [], reply, arrived_us)
        if self._is_hopeless(job, arrived_us):
            self._fail(job, self._failed(FailureKind.EXPIRED, TOO_LATE, job))
            return
        if len(self._preparing) >= _MOST_PREPARING:
            self._fail(job, self._failed(FailureKind.EXPIRED, _TOO_MANY, job))
            return
        assert self._preparer is not None
        with self._wake:
            full = self._is_full()
            self._sequence += 1
            number = self._sequence
            if not full:
                self._preparing[number] = job
        if full:
            self._fail(job, self._failed(FailureKind.EXPIRED, _FULL, job))
            return
        take = functools.partial(self._take_prepared, number)
        self._preparer.begin(wire.ingress, frames, take, self._latest_us(job))

    def _take_prepared(self, number: int, prepared: Prepared) -> None:
        with self._wake:
            job = self._preparing.pop(number, None)
        if job is None:  # it was refused meanwhile
            return
        if prepared.failed is not None:
            self._fail(job, self._failed(*prepared.failed, job))
        else:
            job.inputs = prepared.inputs
            job.faults = prepared.faults
            job.ready_us = now_us()
            self._enqueue(job)

    def _enqueue(self, job: BatchJob) -> None:
        """Have a batch wait for the worker."""
        with self._wake:
            closing = self._closing
            full = not closing and self._is_full()
            if not closing and not full:
                self._sequence += 1
                heapq.heappush(self._waiting, (job.order, self._sequence, job))
                self._wake.notify()
        if closing:
            self._say(job.reply, self._failed(FailureKind.UNREACHABLE, _CLOSING, job))
        elif full:
            self._fail(job, self._failed(FailureKind.EXPIRED, _FULL, job))

    def _is_full(self) -> bool:
        return len(self._waiting) + len(self._preparing) >= MOST_WAITING

    def close(self) -> None:
        """Finish the batch that runs, refuse those that wait, end all threads."""
        with self._wake:
            self._closing = True
            left = [job for _, _, job in self._waiting] + list(self._preparing.values())
            self._waiting.clear()
            self._preparing.clear()
            self._wake.notify()
        for job in left:
            self._say(job.reply, self._failed(FailureKind.UNREACHABLE, _CLOSING, job))
        if self._preparer is not None:
            self._preparer.close()
        self._compute.join()
        self._forwarders.close()
        self._on_close()
        self._transport.close()
        self._memory.close()

    # Taking requests

    def _checked_ticket(self, text: str | None, arrived_us: int) -> WireTicket:
        if text is None:
            raise TicketError(
                f"no {ticket_codec.PARAMETER}: stages are called by their dispatcher; call the public model"
            )
        place = self._place
        wire = ticket_codec.decode(text, self._keys, arrived_us, self._clocks)
        wire = ticket_codec.at_own_hop(wire, place.worker, arrived_us)
        ticket_codec.check_addressee(wire, place.deployment, place.worker)
        if wire.ticket is not None:
            self._check_path(wire)
        return wire

    def _use(self, wire: WireTicket, message: Sequence[Buffer]) -> None:
        """Raises TicketError where the message is not what the ticket was signed for, or was used before;
        HopFailure for who has been replaced.
        """
        stamp = wire.stamp
        if stamp is None:  # a probe
            return
        self._fences.check(wire)
        # A later stage of a chain gets what Triton hands over from the stage before.
        covered = wire.relative and self._place.tls is None and not (wire.chained and wire.hop > 0)
        if covered and not self._keys.accepts_digest(stamp, message, wire.digest):
            raise TicketError(f"{ticket_codec.PARAMETER}: the tensors are not those it was signed for")
        self._used.use(stamp, wall_us(), same_host=not wire.relative)

    def _check_path(self, wire: WireTicket) -> None:
        assert wire.ticket is not None
        blocks, hops, servers = self._place.blocks, len(wire.ticket.hops), wire.way.servers
        if (wire.hop == 0, wire.hop + 1 == hops) != (blocks.is_first, blocks.is_last):
            raise TicketError(
                f"hop {wire.hop} of {hops} is not for blocks [{blocks.start}, {blocks.end}) of {blocks.count}"
            )
        if servers and servers[wire.hop] != self._place.place.server:
            raise TicketError(f"for server {servers[wire.hop]!r}; this is {self._place.place.server!r}")

    def _not_taken(self, reply: Reply, error: Exception) -> None:
        """Answer a request of which no batch comes. error: a HopFailure says it all."""
        if isinstance(error, HopFailure):
            self._say(reply, error)
        elif isinstance(error, CannotRead):
            self._say(reply, self._failed(FailureKind.NO_MEMORY, str(error)))
        else:
            with self._wake:
                self.refused += int(isinstance(error, TicketError))
            self._say(reply, self._failed(FailureKind.REFUSED, str(error)))

    def _answer_probe(self, batch: int, reply: Reply) -> None:
        busy_since_us = self._busy_since_us
        allowed_us = max(_STUCK_FLOOR_US, _STUCK_FACTOR * self._place.latency_us[-1])
        if busy_since_us is not None and now_us() - busy_since_us > allowed_us:
            stuck_us = now_us() - busy_since_us
            self._say(
                reply, self._failed(FailureKind.TIMED_OUT, f"one batch has been running for {stuck_us} us")
            )
            return
        if self._broken:
            self._say(reply, self._failed(FailureKind.COMPUTE, self._broken))
            return
        specs = self._place.probe_answers
        reply.outputs({spec.name: kserve.zeros_of(spec, batch) for spec in specs})

    # Computing

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._serve(job)
            except Exception as error:
                self._broken = self._fails_on_zeros()
                self._fail(job, self._failed(FailureKind.COMPUTE, f"{type(error).__name__}: {error}", job))
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
        with self._wake:
            while not self._waiting and not self._closing:
                self._wake.wait()
            return heapq.heappop(self._waiting)[2] if self._waiting else None

    def _serve(self, job: BatchJob) -> None:
        began_us = now_us()
        self._busy_since_us = began_us
        if self._is_hopeless(job, began_us):
            self._fail(job, self._failed(FailureKind.EXPIRED, TOO_LATE, job))
            return
        if self._is_forsaken(job):
            self._fail(job, self._failed(FailureKind.EXPIRED, "its sender has given it up", job))
            return
        stays = self._stays_on_device(job)
        outputs = self._executor.run_on_device(job.inputs) if stays else self._executor.run(job.inputs)
        self._broken = ""
        ended_us = self._hold(job)
        self._tell(job, ok=True, ended_us=ended_us, busy_us=ended_us - began_us)
        # With nothing else to do, what is quick is done here: it need not wait for a thread to wake up.
        if not self._is_last(job):
            begun = None if self._waiting else self._begin(job, outputs)
            self._forwarders.submit(functools.partial(self._pass_on, job, outputs, begun))
        elif self._waiting or self._finish is not None:
            self._forwarders.submit(functools.partial(self._answer, job, outputs))
        else:
            self._answer(job, outputs)

    def _is_forsaken(self, job: BatchJob) -> bool:
        """Whether its sender has put another batch where it lay. A chain's later stages get tensors from
        Triton: what lay in shared memory was for the first one.
        """
        wire = job.wire
        if wire.frames is None or (wire.chained and wire.hop > 0):
            return False
        return not self._memory.is_there(wire.frames)

    @staticmethod
    def _is_last(job: BatchJob) -> bool:
        """Whether nothing is to be passed on from here; in a chain, Triton does that."""
        ticket = job.wire.ticket
        return ticket is not None and (job.wire.chained or job.wire.hop + 1 == len(ticket.hops))

    def _stays_on_device(self, job: BatchJob) -> bool:
        """Whether the next stage is on this GPU too, and Triton takes the outputs there."""
        ticket = job.wire.ticket
        if ticket is None or not job.wire.chained or job.wire.hop + 1 == len(ticket.hops):
            return False
        return job.wire.on_device

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

    # Passing on

    def _answer(self, job: BatchJob, outputs: list[Array]) -> None:
        try:
            named = self._named(outputs)
            ticket = job.wire.ticket
            if self._finish is not None and ticket is not None and job.wire.hop + 1 == len(ticket.hops):
                named = self._finish(named, job.wire.ingress)
            job.reply.outputs(self._with_status(job, named))
        except Exception as error:
            self._say(job.reply, self._failed(FailureKind.COMPUTE, f"{type(error).__name__}: {error}", job))

    def _begin(self, job: BatchJob, outputs: list[Array]) -> Awaited | None:
        try:
            return self._transport.begin(*self._onward(job, outputs))
        except Exception:
            return None  # fall back to infer(), which reports the error

    def _onward(self, job: BatchJob, outputs: Sequence[Array]) -> tuple[WireTicket, Pieces, int, float]:
        """What the transport needs for the next hop."""
        tensors = [[kserve.piece(array)] for array in outputs]
        return job.wire.for_next_hop(), tensors, job.batch, self._time_limit_s(job)

    def _pass_on(self, job: BatchJob, outputs: list[Array], begun: Awaited | None) -> None:
        try:
            awaited = begun or functools.partial(self._transport.infer, *self._onward(job, outputs))
            job.inputs.clear()
            job.reply.outputs(self._with_status(job, awaited()))
        except HopFailure as failure:
            self._say(job.reply, failure)
        except Exception as error:
            self._say(job.reply, self._failed(FailureKind.COMPUTE, f"{type(error).__name__}: {error}", job))

    def _with_status(self, job: BatchJob, outputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Outputs of a batch and, of a first stage, what is wrong with its frames. In an ensemble always:
        there every output has to come.
        """
        if not job.faults and not (job.wire.chained and job.wire.carries_frames):
            return outputs
        return {**outputs, STATUS: status_array(job.faults, job.batch)}

    def _named(self, outputs: Sequence[Array]) -> Mapping[str, Array]:
        specs = self._place.program.outputs
        return {spec.name: array for spec, array in zip(specs, outputs, strict=True)}

    def _time_limit_s(self, job: BatchJob) -> float:
        assert job.wire.ticket is not None
        last_us = max(job.wire.ticket.deadline_us, job.wire.ticket.hops[-1].end_us)
        # At least a millisecond, which a hop that nothing delays makes.
        return max(1_000, last_us - now_us() + self._grace_us) / 1e6

    def _say(self, reply: Reply, failure: HopFailure) -> None:
        """Answer with an error. One that cannot be sent is logged: the thread has others to answer."""
        try:
            reply.failure(failure)
        except Exception as error:
            self._log(f"{self._place.worker}: {failure} could not be sent: {error!r}")

    def _fail(self, job: BatchJob, failure: HopFailure) -> None:
        self._tell(job, ok=False, ended_us=now_us(), busy_us=0)
        self._say(job.reply, failure)

    def _tell(self, job: BatchJob, ok: bool, ended_us: int, busy_us: int) -> None:
        ticket = job.wire.ticket
        assert ticket is not None
        self._notify(
            job.wire.way.entry,
            Notice(
                revision=job.wire.revision,
                batch=ticket.batch_id,
                attempt=ticket.attempt,
                stage=job.wire.hop,
                ok=ok,
                ended_us=ended_us,
                busy_us=busy_us,
            ),
        )

    def _failed(self, kind: FailureKind, text: str, job: BatchJob | None = None) -> HopFailure:
        hop = 0 if job is None else job.wire.hop  # of what cannot be read nobody knows
        return HopFailure(kind=kind, hop=hop, worker=self._place.worker, text=text)


_CLOSING: Final = "the stage is shutting down"
_FULL = f"{MOST_WAITING} batches wait here already"
_TOO_MANY = f"{_MOST_PREPARING} batches wait here to be prepared already"
_WAKE_UP_US: Final = 1_000
"""Lateness of a sleeping thread that is this host's, not the emulated worker's."""


def check_inputs(specs: Sequence[TensorSpec], inputs: Sequence[Array], max_batch: int) -> None:
    """Raises ValueError unless the arrays are one batch of the stage's inputs."""
    if len(inputs) != len(specs):
        raise ValueError(f"{len(inputs)} inputs; expected {', '.join(spec.name for spec in specs)}")
    batch = len(inputs[0]) if inputs[0].ndim else 0
    if not 1 <= batch <= max_batch:
        raise ValueError(f"batch of {batch}; expected 1 to {max_batch} frames")
    for spec, array in zip(specs, inputs, strict=True):
        if array.shape != (batch, *spec.shape) or _dtype(array) != kserve.NUMPY_OF[spec.dtype]:
            raise ValueError(
                f"input {spec.name}: {array.dtype} {list(array.shape)}; "
                f"expected {spec.dtype} {[batch, *spec.shape]}"
            )


def check_frames(
    infos: Sequence[FrameInfo], bodies: Sequence[Buffer], elsewhere: bool, max_batch: int
) -> None:
    """Raises ValueError unless the bodies are the frames that the ticket describes, or empty where these lie
    elsewhere.
    """
    if not 1 <= len(infos) <= max_batch:
        raise ValueError(f"batch of {len(infos)}; expected 1 to {max_batch} frames")
    if len(infos) != len(bodies):
        raise ValueError(f"{len(bodies)} frames; the ticket describes {len(infos)}")
    for info, body in zip(infos, bodies, strict=True):
        if len(body) != (0 if elsewhere else info.size):
            raise ValueError(f"a frame of {len(body)} bytes; the ticket says {info.size}")


def _dtype(array: Array) -> np.dtype[np.generic]:
    """Inputs that stay on a GPU are torch's."""
    return array.dtype if isinstance(array, np.ndarray) else np.dtype(str(array.dtype).removeprefix("torch."))
