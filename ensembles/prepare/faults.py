"""What can be wrong with a frame."""

from __future__ import annotations


class FrameFault(ValueError):
    """A frame that cannot be used. The message is for its sender: it names nothing of ours."""
