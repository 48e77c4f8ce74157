"""Passes frames of one model between the dispatchers of several entries: which frames, to whom, and what the
entries tell each other for it (scheduler.forwarding decides, dispatcher.entries.onward calls).

Rules
- A frame is passed on when it comes, where another owner gets to it clearly sooner or nothing is owned here;
  or when the core gives it up and another owner would still be in time. Once, then it stays: but for a frame
  whose other entry cannot be reached or owns nothing any more, which may go to another.
- Frames that come while nobody owns anything wait in the core, and go to the first owner that is heard
  (dispatcher.taking).
- Where the model has a policy for streams, a frame of a stream goes to its stream's home
  (scheduler.forwarding), and to another owner only when something failed there: order, shares and superseded
  frames are one core's.
- An entry that cannot be reached gets nothing until it is heard again, and its frames come back to the core;
  so does one that was refused there, or not answered in time, by a queue that goes on.
- Words are sent under no lock that frames need: a host's name may take seconds to be looked up.
- Words go out every IDLE_US, and after TELL_US where the backlog is not what the last word lets others
  expect. Both shrink alike, so that is looked at when a backlog is seen, and no thread wakes for it.
- Words of another revision, or that none of our keys signed, count as silence, and are logged.
"""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from planner.manifest import DeploymentManifest, ModelEntry
from planner.owned import HOP_US
from planner.serving import ServedModel
from python_backend.dispatcher.frames.frame import ErrorCode, Frame
from python_backend.dispatcher.frames.frame_state import FrameState
from python_backend.scheduler.actions import DropReason
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.forwarding import Forwarding
from python_backend.wire import forwarded, peer_words
from python_backend.wire.clock import now_us
from python_backend.wire.feedback import NoticeSender
from python_backend.wire.forwarded import Forwarded
from python_backend.wire.parameters.priority import FIRST, LAST
from python_backend.wire.peer_words import Heard, Word
from python_backend.wire.signing.keys import Keys, TicketError, wall_us
from python_backend.wire.signing.replays import UsedTickets
from python_backend.wire.transport import Outputs

TELL_US: Final = 20_000
IDLE_US: Final = 200_000
SPARE_BATCHES: Final = 3
"""As in simulator.shards."""
_SAW_US: Final = 10_000
_TOLERATED: Final = 0.1
"""Of what an owner must be better by: what others may be wrong about a backlog."""
_RECENT: Final = 16
"""Round trips of which the shortest counts: the others had to wait for a busy host as well."""
_LOG_US: Final = 10_000_000
_RESCUED: Final = frozenset(
    {DropReason.EXPIRED, DropReason.OVERLOAD, DropReason.FAILED, DropReason.NO_WORKER}
)


_RESCUED_OF_STREAMS: Final = frozenset({DropReason.FAILED, DropReason.NO_WORKER})


class Returns(Protocol):
    """Where frames that were passed on end."""

    def served_elsewhere(self, frame: Frame, outputs: Outputs) -> None:
        """Another entry has served it."""

    def refused_elsewhere(self, frame: Frame, code: ErrorCode, text: str) -> None:
        """Another entry says that it cannot be served."""

    def came_back(self, frame: Frame) -> None:
        """The other entry cannot be reached."""

    def owner_heard(self) -> None:
        """Another entry owns something now, or is heard again."""


@dataclass
class _Peer:
    """Another entry. heard_us: when its last word came; its_us: what that said of its own clock. hop_us: from
    here to it, by its last round trips.
    """

    sender: NoticeSender
    heard: Heard = field(default_factory=Heard)
    heard_us: int = 0
    its_us: int = 0
    hop_us: int = HOP_US
    rtts_us: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))
    revision: int = 0
    owned: Mapping[str, int] = field(default_factory=dict)


@dataclass
class PassedCounts:
    """Frames that went to other entries, by entry; that came back from one that did not answer; that others
    have passed on.
    """

    sent: dict[str, int] = field(default_factory=dict)
    came_back: int = 0
    taken: int = 0


class PassingOn:
    """Of a model's dispatcher on the entry that `manifest` is seen from. Thread-safe."""

    def __init__(
        self, manifest: DeploymentManifest, entry: ModelEntry, keys: Keys, log: Callable[[str], None]
    ) -> None:
        self._deployment = manifest.deployment
        self._model = entry.model
        self._me = manifest.entry.name
        self._keys = keys
        self._log = log
        self._run = secrets.token_hex(8)
        self._began_us = wall_us()
        self._used = UsedTickets(self._began_us)
        self._on_this_host = {
            more.server.name for more in manifest.more_entries if more.server.host == manifest.entry.host
        }
        self._number = 0
        self._owned: Mapping[str, int] = {}
        self._rate_rps = 0.0
        self._backlog_us = 0
        self._saw_us = 0
        self._told_us = self._told_backlog_us = 0
        self._to_tell = threading.Event()
        self._logged_us: dict[str, int] = {}
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._way = Forwarding(HOP_US, 0)
        self.serves(manifest, entry)
        self.counts = PassedCounts()
        self._peers = {
            more.server.name: _Peer(NoticeSender((more.server.host, more.feedback_ports[entry.model]), keys))
            for more in manifest.more_entries
        }
        servers = [more.server for more in manifest.more_entries]
        self._returns: Returns | None = None
        # With the gRPC library, which a dispatcher without other entries does not load.
        from python_backend.dispatcher.entries.onward import Onward

        self._onward = Onward(
            manifest.deployment,
            entry,
            self._me,
            servers,
            keys,
            self._served,
            self._refused,
            self._missed,
            self._unreachable,
        )
        self._heard_any = threading.Event()
        self._closing = threading.Event()
        self._teller = threading.Thread(target=self._run_telling, name="peers", daemon=True)

    def start(self, returns: Returns) -> None:
        """Begin to tell, and to pass on."""
        self._returns = returns
        self._teller.start()

    def close(self) -> None:
        """Tell that nothing is owned here any more, and end."""
        self._closing.set()
        self._to_tell.set()
        if self._teller.is_alive():
            self._teller.join()
        self.owns({}, 0.0)
        self._onward.close()
        for peer in self._peers.values():
            peer.sender.close()

    def serves(self, manifest: DeploymentManifest, entry: ModelEntry) -> None:
        """Frames are served by this table from now on. entry: with all workers of the model."""
        self._revision = manifest.epoch
        self._served_us = entry.served.fastest_us()
        self._has_streams = entry.served.streams is not None
        self._way.spare_us = _spare_us(entry.served)

    def owns(self, owned: Mapping[str, int], rate_rps: float) -> None:
        """What is owned here from now on, which is told at once. rate_rps: of that, 0 for nothing."""
        with self._lock:
            self._owned, self._rate_rps = owned, rate_rps
        if owned:
            self._heard_any.set()
        self._tell()

    def wait_for_owner(self, timeout_s: float) -> None:
        """Return when somebody is known to own something, or when the time is over."""
        self._heard_any.wait(timeout_s)

    def read(self, text: str) -> Forwarded:
        """What another entry says of a frame that it passes on, once. Raises TicketError."""
        mark = forwarded.decode(text, self._keys, self._deployment, self._model, self._me)
        lowest = FIRST - LAST
        if not lowest <= mark.priority <= 0:
            raise TicketError(f"{forwarded.PARAMETER}: priority is {mark.priority}; expected {lowest} to 0")
        assert mark.stamp is not None
        try:
            self._used.use(mark.stamp, wall_us(), same_host=mark.sender in self._on_this_host)
        except TicketError as error:
            raise TicketError(f"{forwarded.PARAMETER}: {error}") from error
        return mark

    # Whose turn it is at the core

    def keep(self, frames: Sequence[Frame], core: SchedulerCore, at_us: int) -> list[Frame]:
        """New frames that are scheduled here; the others are on their way to other entries."""
        own_us = core.backlog_us(at_us) if self._owned else -1
        self._saw(own_us, at_us)
        self.counts.taken += sum(frame.stays for frame in frames)
        return [frame for frame in frames if not self._pass_new(frame, own_us, at_us)]

    def rescue(self, frame: Frame, reason: DropReason, at_us: int) -> bool:
        """Whether a frame that the core gives up is passed on instead."""
        rescued = _RESCUED_OF_STREAMS if frame.stream and self._has_streams else _RESCUED
        if frame.stays or frame.passed or frame.answered or reason not in rescued:
            return False
        with self._lock:
            to = self._way.rescuer(self._served_us, frame.deadline_us - at_us, at_us)
        return self._send(frame, to, at_us)

    def pass_on(self, frame: Frame, at_us: int) -> bool:
        """Whether a frame that waits here for an owner is on its way to one."""
        return not frame.answered and self._pass_new(frame, -1, at_us)

    def _pass_new(self, frame: Frame, own_us: int, at_us: int) -> bool:
        if frame.stays or frame.passed:
            return False
        with self._lock:
            if frame.stream and self._has_streams:
                to = self._way.away(frame.stream, self._me, self._rate_rps, at_us)
            else:
                to = self._way.target(own_us, at_us)
        return self._send(frame, to, at_us)

    def _send(self, frame: Frame, to: str, at_us: int) -> bool:
        if not to:
            return False
        frame.passed = True
        frame.move(FrameState.PASSED)
        self.counts.sent[to] = self.counts.sent.get(to, 0) + 1
        left_us = frame.deadline_us - at_us - 2 * self._peers[to].hop_us
        try:
            self._onward.send(frame, to, left_us)
        except Exception as error:
            self._missed(frame, to, repr(error))
        return True

    def _saw(self, own_us: int, at_us: int) -> None:
        if at_us - self._saw_us >= _SAW_US:
            self._saw_us, self._backlog_us = at_us, max(0, own_us)
            expected_us = max(0, self._told_backlog_us - (at_us - self._told_us))
            if abs(self._backlog_us - expected_us) > self._way.spare_us * _TOLERATED:
                self._to_tell.set()

    def give_up(self, frame: Frame) -> None:
        """A frame was answered here: where another entry has it, nobody waits for it there any more."""
        self._onward.give_up(frame)

    # gRPC's threads

    def _served(self, frame: Frame, outputs: Outputs) -> None:
        assert self._returns is not None
        self._returns.served_elsewhere(frame, outputs)

    def _refused(self, frame: Frame, code: ErrorCode, text: str) -> None:
        assert self._returns is not None
        self._returns.refused_elsewhere(frame, code, text)

    def _unreachable(self, frame: Frame, to: str, text: str) -> None:
        with self._lock:
            self._way.silent(to)
        frame.passed = False
        self._missed(frame, to, text)

    def _missed(self, frame: Frame, to: str, text: str) -> None:
        assert self._returns is not None
        with self._lock:
            self.counts.came_back += 1
        self._log_now_and_then(to, f"entry {to} did not serve a frame that was passed on: {text}")
        self._returns.came_back(frame)

    # Words

    def take(self, datagram: bytes) -> bool:
        """Whether it is a word, genuine or not."""
        if not peer_words.is_word(datagram):
            return False
        word = peer_words.decode(datagram, self._keys)
        if word is None:
            self._log_now_and_then(
                "", f"{self._model}: another entry has other ticket keys, or none; copy one file to all hosts"
            )
        elif (word.deployment, word.model) == (self._deployment, self._model):
            self._hear(word, now_us())
        return True

    def _hear(self, word: Word, at_us: int) -> None:
        peer = self._peers.get(word.sender)
        if peer is None:
            return
        if not peer_words.is_fresh(word, wall_us()):
            self._log_now_and_then(
                f"{word.sender}'s clock",
                f"{self._model}: entry {word.sender} sends words that are not of now by this host's clock, "
                "which count as silence: are the clocks of all hosts set (NTP, chrony)?",
            )
            return
        if not peer.heard.is_new(word, wall_us()):
            return
        peer.revision = word.revision
        if word.revision != self._revision:
            self._log_now_and_then(
                word.sender,
                f"{self._model}: entry {word.sender} serves revision {word.revision} and {self._me} revision "
                f"{self._revision}: no frames are passed between them until both have one deployment.json",
            )
            return
        with self._lock:
            owned_before = self._way.is_heard(word.sender, at_us)
            peer.heard_us, peer.its_us, peer.owned = at_us, word.sent_us, word.owned
            if word.echo_us:
                peer.rtts_us.append(max(0, at_us - word.echo_us - word.held_us))
                peer.hop_us = HOP_US + min(peer.rtts_us) // 2
            if not word.owned or word.rate_rps <= 0:
                self._way.remove(word.sender)
            else:
                if word.sender not in self._way.peers:
                    self._way.add(word.sender, word.rate_rps)
                known = self._way.peers[word.sender]
                known.frame_us, known.hop_us = 1e6 / word.rate_rps, peer.hop_us
                self._way.told(word.sender, word.backlog_us, at_us)
                self._heard_any.set()
            is_new = not owned_before and self._way.is_heard(word.sender, at_us)
        if is_new and self._returns is not None:
            self._returns.owner_heard()

    def _run_telling(self) -> None:
        while not self._closing.is_set():
            self._to_tell.wait(IDLE_US / 1e6)
            too_soon_us = self._told_us + TELL_US - now_us()
            if too_soon_us > 0 and self._closing.wait(too_soon_us / 1e6):
                return
            self._to_tell.clear()
            at_us = now_us()
            self._told_us, self._told_backlog_us = at_us, self._backlog_now_us(at_us)
            self._tell()

    def _backlog_now_us(self, at_us: int) -> int:
        return max(0, self._backlog_us - (at_us - self._saw_us))

    def _tell(self) -> None:
        with self._telling:  # so that words go out in the order of their numbers
            at_us = now_us()
            with self._lock:
                words = [(peer, self._word(peer, at_us)) for peer in self._peers.values()]
            for peer, word in words:
                peer.sender.send_datagram(peer_words.encode(word, self._keys))

    def _word(self, peer: _Peer, at_us: int) -> Word:
        self._number += 1
        return Word(
            self._deployment,
            self._model,
            self._me,
            self._revision,
            self._run,
            self._number,
            self._began_us,
            wall_us(),
            at_us,
            peer.its_us,
            at_us - peer.heard_us if peer.its_us else 0,
            self._backlog_now_us(at_us),
            self._rate_rps,
            dict(self._owned),
        )

    def _log_now_and_then(self, about: str, text: str) -> None:
        at_us = now_us()
        if at_us - self._logged_us.get(about, -_LOG_US) >= _LOG_US:
            self._logged_us[about] = at_us
            self._log(text)


def _spare_us(served: ServedModel) -> int:
    batch = max((pipeline.batch_size for pipeline in served.pipelines), default=1)
    return round(SPARE_BATCHES * 1e6 * batch / max(1.0, served.planned_rps))
