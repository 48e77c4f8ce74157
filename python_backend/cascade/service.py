"""Serves a cascade's frames: asks the members in turn, makes frames of their answers, answers once.

Threads: the caller's asks the first member; answers come in gRPC's; frames are made in a few of our own, as
decoding takes its time; one watches deadlines, and whether callers are still there.

Rules
- A frame is answered complete as soon as nothing of it is open, or by its deadline with what is there; if its
  first member has not answered it is refused, with that one's own reason if it gave one.
- What is asked of members carries the frame's time: each must answer by its part of the SLO, counted from
  the frame's arrival, so that what one leaves the next one has. A caller's own time-out stretches all parts.
- Of a frame that was answered, or whose caller has gone, nothing more is asked, and what is under way is
  cancelled.
- A frame keeps the parts of the SLO that it came with: another plan's are of frames that come after it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from planner.cascades.served import CascadeEntry, ServedMember
from planner.manifest import LONGEST_SLOS, DeploymentManifest, ModelEntry
from python_backend.cascade.asking import Asker, Cancel, Refusal
from python_backend.cascade.counts import CascadeCounts, End
from python_backend.cascade.deadlines import Deadlines
from python_backend.cascade.frames import Given, SentFrame
from python_backend.cascade.making import MadeFrames, Maker
from python_backend.cascade.parent import Ask, Make, Outputs, Parent
from python_backend.cascade.stream_order import StreamOrder
from python_backend.cascade.threads import MakingThreads
from python_backend.scheduler.actions import DropReason
from python_backend.wire.clock import now_us
from python_backend.wire.parameters.priority import PRIORITY
from python_backend.wire.parameters.stream_place import NO_STREAM, StreamPlace
from python_backend.wire.refusals import REASON, reason_in

LEAD_US = 1_000
"""By so much an answer is sent before its deadline: it takes that long to leave the server."""
_MAKERS = 4
_MOST_WAITING = 1024
"""Answers of which frames are still to be made; what comes beyond it is missing at once."""
_TOO_MANY = MadeFrames(faults=(f"not made: {_MOST_WAITING} answers wait for the steps that make frames",))
CALLER_GONE = Refusal("CANCELLED", "the caller has gone")
_SHOWN = 40
"""Characters of a stream's name in a message."""


class Caller(Protocol):
    """How one frame's caller is answered; one of the first two is called, once."""

    def outputs(self, outputs: Outputs) -> None:
        """With tensors."""

    def refuse(self, refusal: Refusal) -> None:
        """With an error."""

    def is_cancelled(self) -> bool:
        """Whether nobody waits any more; not asked after the answer."""


class CascadeService:
    """See the module."""

    def __init__(
        self, manifest: DeploymentManifest, cascade: CascadeEntry, log: Callable[[str], None]
    ) -> None:
        """Raises NoStep, KeyError."""
        self.cascade = cascade
        self.counts = CascadeCounts()
        self.streams = StreamOrder(cascade.in_order, log)
        self._numbers = itertools.count()
        self._entries = {each.model: manifest.model(each.model) for each in cascade.members}
        self._makers = {each.model: Maker(each, self._entries[each.model]) for each in cascade.members[1:]}
        self._asker = Asker(manifest.entry)
        self._threads = MakingThreads(_MAKERS, _MOST_WAITING, cascade.slo_us, log)
        tick = self.streams.expire if cascade.in_order else None
        self._deadlines: Deadlines[_Open] = Deadlines(self._expire, self._look, log, tick)
        self._deadlines.start()

    @property
    def first(self) -> ModelEntry:
        """The model that takes the cascade's frames."""
        return self._entries[self.cascade.first.model]

    def serve_by(self, cascade: CascadeEntry) -> None:
        """Frames that come from now on have the parts of this one, which is alike in all else."""
        self.cascade = cascade

    def arrive(
        self,
        given: Given,
        parameters: Mapping[str, Any],
        arrived_us: int,
        timeout_us: int,
        caller: Caller,
        of: StreamPlace = NO_STREAM,
    ) -> None:
        """Serve a frame. parameters: of its request, for the first member. timeout_us: 0 for the SLO.

        Frames of a stream must come in its order.
        """
        cascade = self.cascade
        longest_us = LONGEST_SLOS * cascade.slo_us
        allowed_us = min(timeout_us or cascade.slo_us, longest_us)
        parent = Parent(cascade, self._entries, SentFrame(self.first, given))
        number = next(self._numbers)
        frame = _Open(parent, caller, parameters, arrived_us, allowed_us, number, of.stream)
        self.counts.arrived()
        if of.stream and not self.streams.came(number, *of, frame.deadline_us, arrived_us):
            self._refuse(frame, _out_of_place(cascade.name, of))
            return
        self._deadlines.add(frame.deadline_us - LEAD_US, frame)
        with frame.lock:
            ask = parent.begin()
        self._send(frame, [ask])

    def close(self) -> None:
        """Answer what is open with what is there, end all threads."""
        for frame in self._deadlines.close():
            self._expire(frame)
        self._asker.close()
        self._threads.close()

    def _send(self, frame: _Open, asks: list[Ask]) -> None:
        self.counts.asked(asks)
        for ask in asks:
            sent_us = now_us()
            left_us = frame.by_us(ask.member) - sent_us
            if left_us <= 0:
                late = Refusal("UNAVAILABLE", "reason=deadline: its time was over before it could be asked")
                self._ended(frame, ask, sent_us, late)
                continue
            parameters = frame.later if ask.member.of else frame.parameters
            entry = self._entries[ask.member.model]

            def done(outcome: Outputs | Refusal, ask: Ask = ask, sent_us: int = sent_us) -> None:
                self._ended(frame, ask, sent_us, outcome)

            frame.under_way(ask, self._asker.ask(entry, ask.frame.given, parameters, left_us, done))

    def _ended(self, frame: _Open, ask: Ask, sent_us: int, outcome: Outputs | Refusal) -> None:
        """A member has answered a frame, or refused it."""
        frame.over(ask)
        refusal, makes = None, []
        with frame.lock:
            if frame.is_answered:
                return
            if not isinstance(outcome, Refusal):
                self.counts.answered(ask.member.model, now_us() - sent_us)
                makes = frame.parent.answered(ask, outcome)
                if makes and frame.caller.is_cancelled():
                    refusal = CALLER_GONE
                else:
                    self._begin(frame, makes)
            elif ask.member.of:
                self.counts.missed(ask.member.model, 1)
                frame.parent.refused(ask, outcome.text)
            else:
                refusal = outcome
        if refusal is not None:
            self._refuse(frame, refusal)
        else:
            self._answer_if_whole(frame)

    def _begin(self, frame: _Open, makes: list[Make]) -> None:
        """Under the frame's lock, so that none begins to wait when the frame is answered already."""
        for make in makes:
            name = f"make {make.member.make} of {make.member.model}"
            if not self._threads.put(frame, name, partial(self._make, frame, make, now_us())):
                self.counts.missed(make.member.model, 1)
                frame.parent.made(make, _TOO_MANY)

    def _make(self, frame: _Open, make: Make, answered_us: int) -> None:
        if frame.is_answered:
            return
        made = self._makers[make.member.model].make(make.frame, make.outputs)
        with frame.lock:
            if frame.is_answered:
                return
            asks = frame.parent.made(make, made)
        if made.faults:
            self.counts.missed(make.member.model, len(made.faults))
        self._send(frame, asks)
        self.counts.handed(make.member.model, now_us() - answered_us)
        self._answer_if_whole(frame)

    def _answer_if_whole(self, frame: _Open) -> None:
        if frame.parent.open == 0:
            self._answer(frame)

    def _answer(self, frame: _Open) -> None:
        """With what is there."""
        with frame.lock:
            if not frame.claim():
                return
            partial = frame.parent.is_partial
            try:
                outputs = frame.parent.answer()
            except Exception as error:  # answers of one model that do not fit together
                outputs, fault = None, Refusal("INTERNAL", f"{type(error).__name__}: {error}")
        self._forget(frame)
        if outputs is None:
            self._end_refused(frame, End.FAILED, fault)
            return

        def send(outputs: Outputs = outputs, end: End = End.PARTIAL if partial else End.COMPLETE) -> None:
            self.counts.ended(end, now_us() - frame.arrived_us)
            frame.caller.outputs(outputs)

        if frame.stream:
            self.streams.ready(frame.number, frame.stream, send, now_us())
        else:
            send()

    def _refuse(self, frame: _Open, refusal: Refusal) -> None:
        with frame.lock:
            if not frame.claim():
                return
        self._forget(frame)
        self._end_refused(frame, _end_of(refusal), refusal)

    def _end_refused(self, frame: _Open, end: End, refusal: Refusal) -> None:
        self.counts.ended(end, now_us() - frame.arrived_us)
        try:
            frame.caller.refuse(refusal)
        finally:
            if frame.stream:
                self.streams.ended(frame.number, now_us())

    def _forget(self, frame: _Open) -> None:
        """It has its end."""
        self._deadlines.forget(frame)
        self._threads.forget(frame)
        frame.cancel_all()

    def _expire(self, frame: _Open) -> None:
        """Its deadline has come, or the server's end."""
        if frame.parent.has_begun:
            self._answer(frame)
        else:
            what = f"{self.cascade.first.model} had not answered by the deadline"
            self._refuse(frame, Refusal("UNAVAILABLE", f"reason=deadline: {what}"))

    def _look(self, frame: _Open) -> None:
        """It has been open for a while: is its caller still there?"""
        with frame.lock:
            gone = not frame.is_answered and frame.caller.is_cancelled()
        if gone:
            self._refuse(frame, CALLER_GONE)


class _Open:
    """A frame without an answer. `lock` is held for whatever is done with its parent."""

    def __init__(
        self,
        parent: Parent,
        caller: Caller,
        parameters: Mapping[str, Any],
        arrived_us: int,
        allowed_us: int,
        number: int,
        stream: str,
    ) -> None:
        self.parent = parent
        self.caller = caller
        self.parameters = parameters
        self.later = {name: value for name, value in parameters.items() if name in PASSED_ON}
        self.arrived_us = arrived_us
        self.deadline_us = arrived_us + allowed_us
        self.lock = threading.Lock()
        self.is_answered = False
        self.number = number
        self.stream = stream
        self._stretch = allowed_us / parent.cascade.slo_us
        self._calls: dict[tuple[str, int], Cancel | None] = {}
        self._calls_lock = threading.Lock()

    def by_us(self, member: ServedMember) -> int:
        """When a frame of this member must be answered."""
        return min(self.arrived_us + round(member.by_us * self._stretch), self.deadline_us)

    def claim(self) -> bool:
        """True once, for whoever answers."""
        first, self.is_answered = not self.is_answered, True
        return first

    def under_way(self, ask: Ask, cancel: Cancel) -> None:
        """A call was sent, and may have ended meanwhile."""
        key = ask.member.model, ask.number
        with self._calls_lock:
            if self.is_answered:
                pass
            elif self._calls.pop(key, cancel) is not None:
                self._calls[key] = cancel
                return
            else:
                return
        cancel()

    def over(self, ask: Ask) -> None:
        """A call has ended, perhaps before `under_way` told of it."""
        key = ask.member.model, ask.number
        with self._calls_lock:
            if self._calls.pop(key, None) is None:
                self._calls[key] = None

    def cancel_all(self) -> None:
        """Give up what is under way."""
        with self._calls_lock:
            calls, self._calls = list(self._calls.values()), {}
        for cancel in calls:
            if cancel is not None:
                cancel()


def _end_of(refusal: Refusal) -> End:
    if refusal is CALLER_GONE:
        return End.GONE
    if refusal.code != "UNAVAILABLE":
        return End.FAILED
    return End.SUPERSEDED if reason_in(refusal.text) is DropReason.SUPERSEDED else End.DECLINED


def _out_of_place(cascade: str, of: StreamPlace) -> Refusal:
    return Refusal(
        "INVALID_ARGUMENT",
        f"{cascade}: place {of.place} of stream {of.stream[:_SHOWN]} is not after those that came before; "
        f"expected places that rise: {REASON}{DropReason.PLACE.value}",
    )


PASSED_ON = (PRIORITY,)
"""Of a request's parameters, those that count for all that comes of its frame."""
