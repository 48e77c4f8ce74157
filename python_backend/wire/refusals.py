"""The reason that stands in what a client reads whose frame was not served, as `reason=overload`."""

from __future__ import annotations

from typing import Final

from python_backend.scheduler.actions import DropReason

REASON: Final = "reason="
"""In the text of every frame that a dispatcher of ours did not serve."""


def reason_in(text: str) -> DropReason:
    """Why a dispatcher did not serve a frame, of the text that it says."""
    said = text.rpartition(REASON)[2].split(maxsplit=1)
    return next((reason for reason in DropReason if said and reason.value == said[0]), DropReason.FAILED)
