"""The way of frames from the entry to a first stage: bytes over links, then cores that prepare them.

Rules
- A batch holds the entry's uplink and its worker's downlink, each for as long as its bytes take on that link;
  the way as a whole is as slow as the slower link, and takes a fixed time beside.
- Its frames are then prepared by the cores of the worker's server, each by the core that is free first. Cores
  are taken in the order of commits; what was taken is not given back, for it is spent by the time that a
  batch is known to have failed.
- Times of one frame are whole microseconds, rounded up.
"""

from __future__ import annotations

from typing import Final

from planner.serving import ServedEnds, ServedEntry
from python_backend.scheduler.batches import Request
from python_backend.scheduler.links import AS_PLANNED, Links, paced_us


class BatchLoad:
    """What a batch brings: bytes, and the time of a core that each of its frames takes."""

    __slots__ = ("frame_bytes", "prepare_us")

    def __init__(self, frame_bytes: int, prepare_us: list[int]) -> None:
        self.frame_bytes: int = frame_bytes
        self.prepare_us: list[int] = prepare_us


class Cores:
    """When each core of each server that prepares frames is free."""

    __slots__ = ("free_us", "hosts")

    def __init__(self, served: ServedEntry) -> None:
        self.hosts: dict[str, int] = {host.server: index for index, host in enumerate(served.hosts)}
        self.free_us: list[list[int]] = [[0] * host.cores for host in served.hosts]

    def host(self, server: str) -> int:
        """Index of a server; -1 where its cores are not counted."""
        return self.hosts.get(server, -1)

    def ready_us(self, host: int, arrived_us: int, prepare_us: list[int]) -> int:
        """When a batch that arrives at `arrived_us` would be prepared."""
        if host < 0:
            return arrived_us + max(prepare_us)
        return _assign(list(self.free_us[host]), arrived_us, prepare_us)

    def take(self, host: int, arrived_us: int, prepare_us: list[int]) -> None:
        """Reserve that."""
        if host >= 0:
            _assign(self.free_us[host], arrived_us, prepare_us)


def _assign(free_us: list[int], arrived_us: int, prepare_us: list[int]) -> int:
    ready_us = arrived_us
    for frame_us in prepare_us:
        best = 0
        for core in range(1, len(free_us)):
            if free_us[core] < free_us[best]:
                best = core
        end_us = max(free_us[best], arrived_us) + frame_us
        free_us[best] = end_us
        ready_us = max(ready_us, end_us)
    return ready_us


class Entry:
    """The entry's links, servers' cores, and the mean of the frames that came lately, by which waiting
    batches are judged before their frames are chosen."""

    __slots__ = (
        "cores", "downlink", "mean_bytes", "mean_prepare_us", "planned_bytes", "planned_pixels", "prepare_us",
        "prepare_us_per_byte", "prepare_us_per_pixel", "uplink",
    )  # fmt: skip

    def __init__(self, served: ServedEntry, links: Links) -> None:
        self.uplink: int = links.uplink(served.uplink)
        self.downlink: int = links.downlink(served.downlink)
        self.cores: Cores = Cores(served)
        self.planned_bytes: int = served.frame_bytes
        self.planned_pixels: int = served.frame_pixels
        self.prepare_us: float = served.prepare.fixed_us
        self.prepare_us_per_pixel: float = served.prepare.us_per_pixel
        self.prepare_us_per_byte: float = served.prepare.us_per_byte
        self.mean_bytes: int = served.frame_bytes
        self.mean_prepare_us: int = self.frame_us(served.frame_bytes, served.frame_pixels)

    def frame_us(self, frame_bytes: int, pixels: int) -> int:
        """Time of a core to prepare a frame."""
        return whole_us(
            self.prepare_us + self.prepare_us_per_pixel * pixels + self.prepare_us_per_byte * frame_bytes
        )

    def arrived(self, request: Request, frame_bytes: int, pixels: int) -> None:
        """Note what a frame brings; 0 bytes: what was planned."""
        if frame_bytes <= 0:
            frame_bytes = self.planned_bytes
            pixels = self.planned_pixels
        request.frame_bytes = frame_bytes
        request.prepare_us = self.frame_us(frame_bytes, pixels)
        # Rounded away from the mean, so that a change of frames is followed to the end.
        self.mean_bytes += _step(request.frame_bytes - self.mean_bytes)
        self.mean_prepare_us += _step(request.prepare_us - self.mean_prepare_us)

    def expected(self, batch_size: int) -> BatchLoad:
        """A batch of mean frames."""
        return BatchLoad(batch_size * self.mean_bytes, [self.mean_prepare_us] * batch_size)


_MEMORY: Final = 32
"""A frame moves the means by one in so many parts of its difference from them."""


def _step(difference: int) -> int:
    if difference > 0:
        return (difference + _MEMORY - 1) // _MEMORY
    return -((_MEMORY - 1 - difference) // _MEMORY)


def load_of(requests: list[Request]) -> BatchLoad:
    """What these frames bring."""
    total = 0
    prepare_us: list[int] = []
    for request in requests:
        total += request.frame_bytes
        prepare_us.append(request.prepare_us)
    return BatchLoad(total, prepare_us)


class PipelineEnds:
    """The way into and out of one pipeline; see planner.serving.ServedEnds. cores: the least of any server of
    its first stage, 0 where none are counted."""

    __slots__ = (
        "answer_entry_us", "answer_server_us", "answer_us", "cores", "entry_us_per_byte", "finish_us",
        "ingress_us", "ingress_us_per_byte", "server_us_per_byte",
    )  # fmt: skip

    def __init__(self, served: ServedEnds, cores: int) -> None:
        self.entry_us_per_byte: float = served.entry_us_per_byte
        self.server_us_per_byte: float = served.server_us_per_byte
        self.ingress_us: float = served.ingress_us
        self.ingress_us_per_byte: float = served.ingress_us_per_byte
        self.finish_us: list[int] = list(served.finish_us)
        self.answer_server_us: list[int] = list(served.answer_server_us)
        self.answer_entry_us: list[int] = list(served.answer_entry_us)
        self.answer_us: list[int] = list(served.answer_us)
        self.cores: int = cores

    def entry_wire_us(self, frame_bytes: int) -> int:
        """How long so many bytes hold the entry's uplink."""
        return whole_us(self.entry_us_per_byte * frame_bytes)

    def server_wire_us(self, frame_bytes: int) -> int:
        """How long they hold a server's downlink."""
        return whole_us(self.server_us_per_byte * frame_bytes)

    def transfer_us(self, frame_bytes: int) -> int:
        """How long after they are sent they are there."""
        return whole_us(self.ingress_us + self.ingress_us_per_byte * frame_bytes)

    def lead_us(self, entry: Entry, batch_size: int, pace: int = AS_PLANNED) -> int:
        """From sending a batch of mean frames to its being ready, on idle links and cores."""
        turns = 1 if self.cores == 0 else (batch_size + self.cores - 1) // self.cores
        sent_us = paced_us(self.transfer_us(batch_size * entry.mean_bytes), pace)
        return sent_us + turns * entry.mean_prepare_us

    def back_us(self, batch_size: int) -> int:
        """From the last stage's end to the answers, on idle links."""
        return self.finish_us[batch_size - 1] + self.answer_us[batch_size - 1]


def whole_us(time_us: float) -> int:
    """Rounded up; a sum of floats may lie a hair above the whole number that it means."""
    whole = int(time_us)
    return whole if time_us - whole < 1e-6 else whole + 1
