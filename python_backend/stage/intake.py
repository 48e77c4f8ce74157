"""What a stage's worker is sent, checked: the ticket, and the tensors or clients' frames that go with it.

Rules
- A ticket is good once, and for the tensors that it was signed for (wire.signing.replays, wire.signing.keys).
- A batch of an owner that another has replaced is refused (stage.fences): workers tell owners of that.
- What lies in shared memory is read there, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.places import StagePlace
from planner.profile import TensorSpec
from python_backend.stage.fences import Fences
from python_backend.stage.jobs import BatchJob
from python_backend.wire import kserve, ticket_codec
from python_backend.wire.clocks import EntryClocks
from python_backend.wire.kserve import Array, Buffer
from python_backend.wire.ragged import FrameInfo, body_of
from python_backend.wire.shm.reader import SharedReader
from python_backend.wire.signing.keys import Keys, TicketError, wall_us
from python_backend.wire.signing.replays import UsedTickets
from python_backend.wire.ticket_codec import WireTicket


class StageIntake:
    """Of the worker at one place. Thread-safe."""

    def __init__(self, place: StagePlace, keys: Keys, clocks: EntryClocks) -> None:
        self._deployment = place.deployment
        self._worker = place.worker
        self._server = place.place.server
        self._blocks = place.blocks
        self._ends = (place.blocks.is_first, place.blocks.is_last)
        self._inputs = place.program.inputs
        self._most = place.program.max_batch_size
        self._tls = place.tls is not None
        self._keys = keys
        self._clocks = clocks
        self._memory = SharedReader()
        self._used = UsedTickets(wall_us())
        self._fences = Fences()

    def ticket(self, text: str | None, arrived_us: int) -> WireTicket:
        """What came with a request, checked. Raises TicketError."""
        if text is None:
            raise TicketError(
                f"no {ticket_codec.PARAMETER}: stages are called by their dispatcher; call the public model"
            )
        wire = ticket_codec.decode(text, self._keys, arrived_us, self._clocks)
        wire = ticket_codec.at_own_hop(wire, self._worker, arrived_us)
        ticket_codec.check_addressee(wire, self._deployment, self._worker)
        if wire.ticket is not None:
            self._check_path(wire)
        return wire

    def tensors(self, wire: WireTicket, inputs: list[Array], shared: int) -> list[Array]:
        """A batch of the program's inputs: `inputs`, or `shared` frames that lie in shared memory, where the
        ticket says. Raises TicketError, ValueError, CannotRead, HopFailure.
        """
        if shared and wire.frames is not None:
            inputs = self._memory.arrays(wire.frames, self._inputs, shared)
        check_inputs(self._inputs, inputs, self._most)
        self._use(wire, [kserve.piece(array) for array in inputs] if wire.digest else ())
        return inputs

    def frames(self, wire: WireTicket, bodies: Sequence[Buffer]) -> Sequence[Buffer]:
        """Clients' frames: `bodies`, or what lies in shared memory where these are empty. Raises the same."""
        check_frames(wire.ingress, bodies, wire.frames is not None, self._most)
        frames = bodies
        if wire.frames is not None:
            frames = self._memory.pieces(wire.frames, [info.size for info in wire.ingress])
        self._use(wire, body_of([[body] for body in bodies])[0] if wire.digest else ())
        return frames

    def is_forsaken(self, job: BatchJob) -> bool:
        """Whether its sender has put another batch where it lay. A chain's later stages get tensors from
        Triton: what lay in shared memory was for the first one.
        """
        wire = job.wire
        if wire.frames is None or (wire.chained and wire.hop > 0):
            return False
        return not self._memory.is_there(wire.frames)

    def close(self) -> None:
        """Let go of shared memory."""
        self._memory.close()

    def _use(self, wire: WireTicket, message: Sequence[Buffer]) -> None:
        """Raises TicketError where the message is not what the ticket was signed for, or was used before;
        HopFailure for who has been replaced.
        """
        stamp = wire.stamp
        if stamp is None:  # a probe
            return
        self._fences.check(wire)
        # A later stage of a chain gets what Triton hands over from the stage before.
        covered = wire.relative and not self._tls and not (wire.chained and wire.hop > 0)
        if covered and not self._keys.accepts_digest(stamp, message, wire.digest):
            raise TicketError(f"{ticket_codec.PARAMETER}: the tensors are not those it was signed for")
        self._used.use(stamp, wall_us(), same_host=not wire.relative)

    def _check_path(self, wire: WireTicket) -> None:
        assert wire.ticket is not None
        hops, servers = len(wire.ticket.hops), wire.way.servers
        if (wire.hop == 0, wire.hop + 1 == hops) != self._ends:
            blocks = self._blocks
            raise TicketError(
                f"hop {wire.hop} of {hops} is not for blocks [{blocks.start}, {blocks.end}) of {blocks.count}"
            )
        if servers and servers[wire.hop] != self._server:
            raise TicketError(f"for server {servers[wire.hop]!r}; this is {self._server!r}")


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
