"""What goes wrong on a hop, and how it is said: one exception here, one JSON text in a Triton error on the
wire.

A failure travels back up the chain of stages to the dispatcher, so it names the hop it happened at, not the
hop that reports it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum

_MARK = "ppipe-failure "


class FailureKind(Enum):
    """What the dispatcher does differs by kind."""

    EXPIRED = "expired"
    """The stage could no longer finish in time: nothing is wrong with the worker."""
    REFUSED = "refused"
    """The request itself is wrong (ticket, shape): another worker would refuse it too."""
    DEAD_STUB = "dead_stub"
    """The worker's stub process is gone; the model must be unloaded and loaded."""
    UNREACHABLE = "unreachable"
    """The worker's server does not answer."""
    NOT_LOADED = "not_loaded"
    """The worker's server answers, but has not loaded its model (yet)."""
    TIMED_OUT = "timed_out"
    """No answer within the hop's time: stopped, stuck, or lost."""
    OVERDUE = "overdue"
    """The worker has fallen silent: its batch is tried elsewhere before the hop times out."""
    COMPUTE = "compute"
    """The stage raised an exception while computing."""
    FENCED = "fenced"
    """The worker's shard has a newer owner; the text is the term that it has seen (`seen_term`)."""
    NO_MEMORY = "no_memory"
    """The stage cannot map the sender's shared memory: the sender puts the tensors into the message."""

    @property
    def blames_worker(self) -> bool:
        """Whether the worker should get no more work until a probe succeeds."""
        return self in _BLAMES_WORKER


_BLAMES_WORKER = frozenset(
    {
        FailureKind.DEAD_STUB,
        FailureKind.UNREACHABLE,
        FailureKind.NOT_LOADED,
        FailureKind.TIMED_OUT,
        FailureKind.OVERDUE,
    }
)


@dataclass
class HopFailure(Exception):
    """A batch was not served by the worker of hop `hop`."""

    kind: FailureKind
    hop: int
    worker: str
    text: str

    def __str__(self) -> str:
        return f"{self.worker} (hop {self.hop}): {self.kind.value}: {self.text}"

    @property
    def seen_term(self) -> int:
        """Of a failure of kind FENCED: the highest term of its shard that the worker has seen."""
        number = self.text.rpartition(" ")[2]
        return int(number) if number.isascii() and number.isdigit() else 0

    def to_wire(self) -> str:
        """The message of the Triton error that carries this failure back."""
        plain = {"kind": self.kind.value, "hop": self.hop, "worker": self.worker, "text": self.text[:500]}
        return _MARK + json.dumps(plain)


def out_of_time(hop: int, worker: str, timeout_s: float, was_arriving: bool) -> HopFailure:
    """Of a call that was not answered in time. was_arriving: its message was still moving towards the end,
    so its link is at fault and not its worker.
    """
    reason = f"no answer within {timeout_s * 1e3:.0f} ms"
    if was_arriving:
        text = f"{reason}; its message was still arriving towards the end"
        return HopFailure(FailureKind.EXPIRED, hop, worker, text)
    return HopFailure(FailureKind.TIMED_OUT, hop, worker, reason)


def from_wire(message: str) -> HopFailure | None:
    """The failure inside a Triton error's message, or None if it was not written by a stage of ours."""
    _, mark, text = message.partition(_MARK)
    if not mark:
        return None
    try:
        plain, _ = json.JSONDecoder().raw_decode(text)
        return HopFailure(FailureKind(plain["kind"]), int(plain["hop"]), plain["worker"], plain["text"])
    except (ValueError, KeyError, TypeError):
        return None
