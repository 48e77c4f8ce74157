"""What becomes of a batch that a worker has computed, or will not: its outputs go on to the next stage or
back the way that it came, and its dispatcher is told.

Rules
- Forwarding threads carry outputs on, and final outputs back. What is quick is done by the thread that
  computes, as long as no other batch waits for it.
- What the last stage answers is finished, where the model says so, off the compute thread.
- A frame that could not be used went on as zeros; the answer says which (STATUS).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from planner.manifest import STATUS
from planner.places import StagePlace
from python_backend.stage.jobs import BatchJob, Finish, Reply
from python_backend.wire import graces, kserve
from python_backend.wire.clock import now_us
from python_backend.wire.feedback import Notice
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.kserve import Array
from python_backend.wire.ragged import status_array
from python_backend.wire.threads import Crew
from python_backend.wire.ticket_codec import WireTicket
from python_backend.wire.transport import Awaited, Pieces, Transport

_FORWARDERS: Final = 16


class Answering:
    """Of the worker at one place. Thread-safe."""

    def __init__(
        self,
        place: StagePlace,
        transport: Transport,
        notify: Callable[[str, Notice], None],
        log: Callable[[str], None],
        finish: Finish | None,
    ) -> None:
        """notify: the dispatcher on an entry server. finish: of a last stage, if there is any."""
        self._place = place
        self._grace_us = graces.stage_us(place.serves_late)
        self._transport = transport
        self._notify = notify
        self._log = log
        self._finish = finish
        self._forwarders = Crew("forward", _FORWARDERS, lambda error: log(f"forwarding failed: {error!r}"))

    def computed(self, job: BatchJob, outputs: list[Array], others_wait: bool) -> None:
        """Pass a batch on, or answer it; others_wait: for the thread that calls."""
        # With nothing else to do, what is quick is done here: it need not wait for a thread to wake up.
        if not job.is_last:
            begun = None if others_wait else self._begin(job, outputs)
            self._forwarders.submit(functools.partial(self._pass_on, job, outputs, begun))
        elif others_wait or self._finish is not None:
            self._forwarders.submit(functools.partial(self._answer, job, outputs))
        else:
            self._answer(job, outputs)

    def say(self, reply: Reply, failure: HopFailure) -> None:
        """Answer with an error. One that cannot be sent is logged: the thread has others to answer."""
        try:
            reply.failure(failure)
        except Exception as error:
            self._log(f"{self._place.worker}: {failure} could not be sent: {error!r}")

    def refuse(self, reply: Reply, kind: FailureKind, text: str, hop: int = 0) -> None:
        """Answer with an error of this worker. hop: 0 of what cannot be read, for nobody knows."""
        self.say(reply, HopFailure(kind=kind, hop=hop, worker=self._place.worker, text=text))

    def fail(self, job: BatchJob, kind: FailureKind, text: str) -> None:
        """Answer a batch that was not computed with an error, once its dispatcher was told."""
        self.tell(job, ok=False, ended_us=now_us(), busy_us=0)
        self.refuse(job.reply, kind, text, job.wire.hop)

    def tell(self, job: BatchJob, ok: bool, ended_us: int, busy_us: int) -> None:
        """Tell the dispatcher how a batch's compute ended."""
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

    def close(self) -> None:
        """Carry on what was handed in, and end all threads."""
        self._forwarders.close()

    def _answer(self, job: BatchJob, outputs: list[Array]) -> None:
        try:
            named = self._named(outputs)
            if self._finish is not None and job.at_last_stage:
                named = self._finish(named, job.wire.ingress)
            job.reply.outputs(self._with_status(job, named))
        except Exception as error:
            self.refuse(job.reply, FailureKind.COMPUTE, f"{type(error).__name__}: {error}", job.wire.hop)

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
            self.say(job.reply, failure)
        except Exception as error:
            self.refuse(job.reply, FailureKind.COMPUTE, f"{type(error).__name__}: {error}", job.wire.hop)

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
