"""Which servers are in and which are out, from whether they answered at each look.

Rules
- A server is out after `silent_s` of silence. Time in which nobody looked is no silence: a loop that was
  itself stopped finds no server out because of it.
- A server that is out is in again once it has answered at every look for `healthy_s`.
- One that has been silent for `suspect_s` is suspected: what its loss needs may be made ready. Not one that
  has been out before and has not been healthy for long since.
- One that goes out again soon after it came back must be healthy twice as long each time, so one that flaps
  moves the fleet once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

LONGEST_LOOK_S = 1.0
"""Of the time between two looks no more counts as silence or health."""
SOON = 10.0
"""Times what a server had to be healthy for: going out within that is going out again soon."""
LONGEST_HEALTHY_S = 1800.0


class SettingFault(ValueError):
    """A setting of the loop that makes no sense; the message names it."""


@dataclass(frozen=True)
class SilenceSettings:
    """Seconds; see the module."""

    silent_s: float = 1.5
    healthy_s: float = 30.0
    suspect_s: float = 0.4

    def __post_init__(self) -> None:
        for name in ("silent_s", "healthy_s", "suspect_s"):
            value = getattr(self, name)
            if not value > 0:
                raise SettingFault(f"{name}: {value:g} must be above 0")


@dataclass
class _Server:
    is_out: bool
    silent_s: float = 0.0
    healthy_s: float = 0.0
    must_be_healthy_s: float = 0.0
    in_since_s: float | None = None
    """When it came back; None: it was never out."""


@dataclass(frozen=True)
class ServerChange:
    """A server went out, or came back."""

    server: str
    is_out: bool
    after_s: float
    """Of silence, or of health."""

    def __str__(self) -> str:
        if self.is_out:
            return f"server {self.server}: out after {self.after_s:.1f} s of silence"
        return f"server {self.server}: back after {self.after_s:.0f} s of health"


class ServerHealth:
    """See the module. `out`: servers that the plan that is served was made without."""

    def __init__(
        self, servers: Iterable[str], settings: SilenceSettings, now_s: float, out: Collection[str] = ()
    ) -> None:
        self._settings = settings
        self._looked_s = now_s
        self._servers = {
            name: _Server(is_out=name in out, must_be_healthy_s=settings.healthy_s) for name in servers
        }

    @property
    def out(self) -> frozenset[str]:
        """Servers that are not to be planned with."""
        return frozenset(name for name, server in self._servers.items() if server.is_out)

    @property
    def suspected(self) -> frozenset[str]:
        """Servers that are in, and may be out soon."""
        return frozenset(
            name
            for name, server in self._servers.items()
            if not server.is_out
            and server.silent_s >= self._settings.suspect_s
            and not self._was_out_lately(server, self._looked_s)
        )

    @property
    def silent(self) -> frozenset[str]:
        """Servers that are in and did not answer when last looked at."""
        return frozenset(
            name for name, server in self._servers.items() if not server.is_out and server.silent_s > 0
        )

    def saw(self, answering: Collection[str], now_s: float) -> tuple[ServerChange, ...]:
        """A look at all servers: which of them answered, and what that changes."""
        passed_s = min(LONGEST_LOOK_S, max(0.0, now_s - self._looked_s))
        self._looked_s = now_s
        found = (
            self._answered(name, server, passed_s, now_s)
            if name in answering
            else self._was_silent(name, server, passed_s, now_s)
            for name, server in self._servers.items()
        )
        return tuple(change for change in found if change is not None)

    def _answered(self, name: str, server: _Server, passed_s: float, now_s: float) -> ServerChange | None:
        server.silent_s = 0.0
        if not server.is_out:
            return None
        server.healthy_s += passed_s
        if server.healthy_s < server.must_be_healthy_s:
            return None
        server.is_out, server.in_since_s = False, now_s
        return ServerChange(name, False, server.healthy_s)

    def _was_silent(self, name: str, server: _Server, passed_s: float, now_s: float) -> ServerChange | None:
        server.healthy_s = 0.0
        server.silent_s += passed_s
        if server.is_out or server.silent_s < self._settings.silent_s:
            return None
        server.is_out = True
        server.must_be_healthy_s = self._next_healthy_s(server, now_s)
        return ServerChange(name, True, server.silent_s)

    def _next_healthy_s(self, server: _Server, now_s: float) -> float:
        if not self._was_out_lately(server, now_s):
            return self._settings.healthy_s
        return min(LONGEST_HEALTHY_S, 2 * server.must_be_healthy_s)

    def _was_out_lately(self, server: _Server, now_s: float) -> bool:
        since_s = server.in_since_s
        return since_s is not None and now_s - since_s <= SOON * server.must_be_healthy_s
