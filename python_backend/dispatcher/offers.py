"""How frames are offered to the scheduler core: with which deadline, and when again.

Rules
- A core holds a frame back for a fuller batch as long as its deadline allows. So a frame with more time than
  frames have by plan (DeploymentManifest.time_us) is offered with that first, and again, with more, when the
  core gives it up. With the late policy "serve" this goes on past the deadline.
- A frame that the core gave up for want of time, though it was offered with all that it has, is not offered
  again: of 4,299 such frames one was served in ten more offers each, which are work when there is most of it.
- Among frames of one priority, patient ones (frames.room), whose callers wait well beyond that, come
  after those whose callers do not. Else who asks for an hour is served for an hour, in the order of
  deadlines before all that came later. While it is crowded frames come after others for who has sent them
  too (Frame.rank).
- The core is given deadlines less what answers were lately late by (dispatcher.lateness), so that it plans
  with the way back too.
"""

from __future__ import annotations

import heapq
from typing import Final

from planner.manifest import ModelEntry
from python_backend.dispatcher.frames.frame import LAST_RANK, Frame
from python_backend.dispatcher.frames.frame_state import FrameState
from python_backend.dispatcher.lateness import Lateness
from python_backend.scheduler.events import RequestArrived
from python_backend.wire.clock import NEVER

_MOST_DOUBLINGS: Final = 10
_PAUSE_US: Final = 500


class Offers:
    """See the module. Used by one thread at a time."""

    def __init__(self, entry: ModelEntry, time_us: int, lateness: Lateness) -> None:
        """time_us: how long a frame has by plan."""
        self._lateness = lateness
        self._serve_late = entry.serves_late
        self._time_us = time_us
        self._fastest_us = entry.served.fastest_us()
        self._later: list[tuple[int, int]] = []
        """(time, request id) of frames to offer again; some may have been withdrawn since."""

    def offer(self, frame: Frame, now_us: int) -> RequestArrived:
        """The frame as the core sees it, which has it from now on: with a deadline no later than its time
        by plan allows, twice that on each new offer.
        """
        frame.move(FrameState.QUEUED)
        deadline_us = frame.deadline_us
        if frame.offers or deadline_us > frame.arrived_us + self._time_us:
            allowed_us = now_us + (self._time_us << min(frame.offers, _MOST_DOUBLINGS))
            deadline_us = allowed_us if self._serve_late else min(deadline_us, allowed_us)
        frame.offers += 1
        frame.offered_whole = deadline_us >= frame.deadline_us
        frame.offered_us = deadline_us - self._lateness.allowance_us(now_us)
        return self._arrived(frame, again=frame.offers > 1)

    def repeat(self, frame: Frame) -> RequestArrived:
        """The same offer, for the core of another table: with the deadline that it was last offered with.
        What its stream may send was counted by the core that had it.
        """
        return self._arrived(frame, again=True)

    def _arrived(self, frame: Frame, again: bool) -> RequestArrived:
        info = frame.info
        rank = LAST_RANK if frame.patient else frame.rank
        return RequestArrived(
            frame.request_id,
            frame.offered_us,
            (LAST_RANK + 1) * frame.priority - rank,
            0 if info is None else info.size,
            0 if info is None else info.width * info.height,
            frame.stream,
            frame.place,
            again,
        )

    def serve(self, entry: ModelEntry, time_us: int) -> None:
        """Frames are offered to the core of this table from now on."""
        self._time_us = time_us
        self._lateness.begin(entry.served.slo_us)
        self._fastest_us = entry.served.fastest_us()

    def again(self, frame: Frame, now_us: int) -> bool:
        """Offer a frame that the core gave up once more, a little later, if it has more time than it was
        offered with; whether it has.
        """
        if not self._serve_late and now_us + self._fastest_us > frame.deadline_us:
            return False
        if not self._serve_late and frame.offers > _MOST_DOUBLINGS:
            return False
        frame.move(FrameState.PAUSED)
        heapq.heappush(self._later, (now_us + (_PAUSE_US << min(frame.offers, 5)), frame.request_id))
        return True

    def has_more(self, frame: Frame) -> bool:
        """Whether a frame may have more time than it was offered with."""
        return self._serve_late or not frame.offered_whole

    @property
    def next_us(self) -> int:
        """When a frame is to be offered again; NEVER when none is."""
        return self._later[0][0] if self._later else NEVER

    def take_next(self) -> int:
        """The request id of the frame that is to be offered then, if it is still paused. Told once."""
        return heapq.heappop(self._later)[1]
