"""Actions of a scheduler core read back from the texts in an event log.

Rule: action_of(repr(action)) == action. Patterns, not Python's parser, because a log has 100,000 of them.
"""

from __future__ import annotations

import ast
import re

from python_backend.scheduler.actions import Action, Dispatch, Drop, DropReason, Hop, Ticket, WakeAt
from python_backend.scheduler.errors import EventLogError

_INT = r"(-?\d+)"
_HOP = re.compile(
    rf"""Hop\(('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"), {_INT}, {_INT}, {_INT}, {_INT}, {_INT}\)"""
)
_DISPATCH = re.compile(
    rf"Dispatch\(Ticket\({_INT}, {_INT}, {_INT}, {_INT}, \((.*)\), {_INT}, {_INT}\), \(([\d, -]*)\)\)"
)
_DROP = re.compile(rf"Drop\({_INT}, <DropReason\.\w+: '(\w+)'>\)")
_WAKE = re.compile(rf"WakeAt\({_INT}\)")


def action_of(text: str) -> Action:
    """The action that `text` is the repr of. Raises EventLogError."""
    try:
        if (found := _DISPATCH.fullmatch(text)) is not None:
            return _dispatch(found)
        if (found := _DROP.fullmatch(text)) is not None:
            return Drop(int(found[1]), DropReason(found[2]))
    except ValueError as error:
        raise EventLogError(f"no action: {text[:120]!r}: {error}") from error
    if (found := _WAKE.fullmatch(text)) is not None:
        return WakeAt(int(found[1]))
    raise EventLogError(f"no action: {text[:120]!r}; wanted Dispatch(...), Drop(...) or WakeAt(...)")


def _dispatch(found: re.Match[str]) -> Dispatch:
    batch, attempt, pipeline, deadline, hops, first_stage, answer, frames = found.groups()
    ticket = Ticket(
        int(batch),
        int(attempt),
        int(pipeline),
        int(deadline),
        tuple([_hop(*values) for values in _HOP.findall(hops)]),
        int(first_stage),
        int(answer),
    )
    return Dispatch(ticket, tuple([int(frame) for frame in frames.split(",") if frame.strip()]))


def _hop(worker: str, *times: str) -> Hop:
    name = str(ast.literal_eval(worker)) if "\\" in worker else worker[1:-1]
    return Hop(name, *map(int, times))
