"""How large clients' frames really are, against the frame that the plan was made for: links and cores were
planned by it. A lasting deviation is logged, and exported as a metric.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from planner.serving import ServedEntry
from python_backend.dispatcher.frames.frame import Frame

_WINDOW = 256
_TOLERATED = 0.25
_REPEAT_US = 60_000_000


class FrameDrift:
    """Means of the last window of frames over the planned ones. By whose turn it is at the core."""

    def __init__(self, model: str, entry: ServedEntry | None, log: Callable[[str], None]) -> None:
        """entry: None where the way in was not planned."""
        planned = {} if entry is None else {"bytes": entry.frame_bytes, "pixels": entry.frame_pixels}
        self._planned = {name: number for name, number in planned.items() if number}
        self._model = model
        self._log = log
        self._sums = dict.fromkeys(("bytes", "pixels"), 0)
        self._frames = 0
        self._warned_us = -_REPEAT_US
        self.ratios: Mapping[str, float] = {}
        """Measured over planned, of bytes and pixels; empty before a window is full."""

    def saw(self, frames: Iterable[Frame], now_us: int) -> None:
        """Frames have arrived. Tensors, which nobody prepares, do not count."""
        if not self._planned:
            return
        for frame in frames:
            info = frame.info
            if info is not None and info.width:
                self._frames += 1
                self._sums["bytes"] += info.size
                self._sums["pixels"] += info.width * info.height
        if self._frames >= _WINDOW:
            self.ratios = {
                name: self._sums[name] / self._frames / number for name, number in self._planned.items()
            }
            self._warn_if_off(now_us)
            self._sums = dict.fromkeys(self._sums, 0)
            self._frames = 0

    def _warn_if_off(self, now_us: int) -> None:
        off = {name: ratio for name, ratio in self.ratios.items() if abs(ratio - 1) > _TOLERATED}
        if off and now_us - self._warned_us >= _REPEAT_US:
            self._warned_us = now_us
            said = " and ".join(f"{ratio:.2f} times the planned {name}" for name, ratio in off.items())
            self._log(f"{self._model}: frames have {said}: state preprocess.frame as it is, and plan again")
