"""Errors of the simulator. Apart from the compiled modules, because exceptions cannot be native classes."""

from __future__ import annotations


class ArrivalError(ValueError):
    """An arrival process that cannot be; the message names the field, the value and what is accepted."""
