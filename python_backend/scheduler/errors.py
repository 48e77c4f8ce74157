"""Errors of the scheduler. Apart from the compiled modules, because exceptions cannot be native classes."""

from __future__ import annotations


class StaleQuoteError(RuntimeError):
    """A quote was committed after the timelines that it read had changed."""


class EventLogError(ValueError):
    """A file that is no event log, or a damaged one; the message names file and line."""
