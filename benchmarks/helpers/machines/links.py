"""A link between hosts as it is described, and as tc shapes a device to be one.

Rules
- Delay, loss and jitter are the kernel's netem's; where it has none, those of a relay between tap devices.
  A link without any is a plain veth pair.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.helpers.machines.wire import Nature

_QUEUE_MS = 50
"""How long a packet may wait at a link before it is lost."""


class Delays(enum.Enum):
    """What delays and loses packets here. Where it is netem, jitter lets packets overtake each other; a relay
    keeps their order.
    """

    NETEM = "netem"
    RELAY = "relay"


@dataclass(frozen=True)
class Link:
    """Of a host, each way; a packet between two hosts crosses both hosts' links. Its delay is between
    delay - jitter and delay + jitter. See Delays.
    """

    mbit: float
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss_percent: float = 0.0
    burst_kbit: int = 128
    """Of the shaper's bucket: a few frames of Ethernet, as a switch port has. Segments larger than that are
    cut up by the sender's processor; from 512 on whole ones go through, as to a card that cuts them up
    itself.
    """

    @property
    def is_plain(self) -> bool:
        """Whether it has a rate and nothing else."""
        return not (self.delay_ms or self.jitter_ms or self.loss_percent)

    @property
    def nature(self) -> Nature:
        """As a wire."""
        return Nature(self.delay_ms * 1e3, self.jitter_ms * 1e3, self.loss_percent / 100)


def shaping(device: str, link: Link, by_relay: bool = False) -> Iterator[list[str]]:
    """Commands of tc that make a device as fast as the link is, delays and losses where no relay has them."""
    rate = ["rate", f"{link.mbit}mbit", "burst", f"{link.burst_kbit}kbit", "latency", f"{_QUEUE_MS}ms"]
    yield ["tc", "qdisc", "add", "dev", device, "root", "handle", "1:", "tbf", *rate]
    if not link.is_plain and not by_relay:
        more = ["delay", f"{link.delay_ms}ms", f"{link.jitter_ms}ms", "loss", f"{link.loss_percent}%"]
        yield ["tc", "qdisc", "add", "dev", device, "parent", "1:1", "handle", "10:", "netem", *more]
