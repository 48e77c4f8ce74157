"""What a model's dispatchers on several entries tell each other, many times a second: one signed datagram
each, to the port for notices. One that gets lost is no harm: the next says it anew.

Rules
- Hosts share no clock: a word carries its sender's own time, and the receiver's last time with how long it
  was held, so that whoever gets an answer knows the round trip.
- A word is good once, and not for long: numbers of a run rise, and one that was said more than LIFETIME_US
  ago by the time of day, or will be, is refused (wire.signing.replays).
- A run that another has followed is over. One follows that began later, so that an old run's words, sent
  again, cut nobody off; any one does after LIFETIME_US of silence, whose clock may have been set back.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from python_backend.wire.signing.keys import Keys
from python_backend.wire.signing.replays import LIFETIME_US
from python_backend.wire.signing.signatures import text_datagram, text_in

_MAGIC: Final = b"PPW1"
_LARGEST: Final = 1 << 62


@dataclass(frozen=True)
class Word:
    """sender: an entry's name. revision: of its deployment.json. run, number: of its process, and of the word
    there; began_us, said_us: when these were, by the time of day. sent_us: by its clock. echo_us: our own
    sent_us that came last, held_us ago; 0 for none.

    backlog_us: how long a new frame waits. rate_rps: of what is owned. owned: terms by shard.
    """

    deployment: str
    model: str
    sender: str
    revision: int
    run: str
    number: int
    began_us: int
    said_us: int
    sent_us: int
    echo_us: int
    held_us: int
    backlog_us: int
    rate_rps: float
    owned: Mapping[str, int] = field(default_factory=dict)


def encode(word: Word, keys: Keys) -> bytes:
    """The datagram of a word."""
    return text_datagram(_MAGIC, json.dumps(vars(word), separators=(",", ":")), keys)


def is_word(datagram: bytes) -> bool:
    """Whether it says that it is one, of whomever."""
    return datagram.startswith(_MAGIC)


def decode(datagram: bytes, keys: Keys) -> Word | None:
    """The word in a datagram; None for anything that is not a genuine one."""
    body = text_in(datagram, _MAGIC, keys)
    if body is None:
        return None
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        return _checked(Word(**json.loads(body)))
    return None


def is_fresh(word: Word, wall_us: int) -> bool:
    """Whether it was said a moment ago, as well as hosts' clocks are set. wall_us: the time of day here."""
    return abs(wall_us - word.said_us) <= LIFETIME_US


def _checked(word: Word) -> Word | None:
    kinds: dict[str, Any] = {"rate_rps": (int, float), "owned": dict}
    for name, value in vars(word).items():
        kind = kinds.get(name, str if name in ("deployment", "model", "sender", "run") else int)
        if not isinstance(value, kind) or isinstance(value, bool):
            return None
        if isinstance(value, int) and abs(value) > _LARGEST:
            return None
    whole = all(
        isinstance(shard, str) and type(term) is int and abs(term) <= _LARGEST
        for shard, term in word.owned.items()
    )
    return word if whole and math.isfinite(word.rate_rps) else None


class Heard:
    """Which words of one sender are new."""

    _MOST_RUNS: Final = 64

    def __init__(self) -> None:
        self._runs: dict[str, int] = {}
        """Highest number by run, the present run last."""
        self._began_us = 0
        """Of the present run."""
        self._heard_us = 0

    def is_new(self, word: Word, wall_us: int) -> bool:
        """Whether it was never heard, and nothing later was. wall_us: the time of day here."""
        present = next(reversed(self._runs), None)
        if word.run in self._runs:
            if word.run != present or word.number <= self._runs[word.run]:
                return False
        elif word.began_us <= self._began_us and abs(wall_us - self._heard_us) <= LIFETIME_US:
            return False
        self._runs[word.run] = word.number
        self._began_us, self._heard_us = word.began_us, wall_us
        while len(self._runs) > self._MOST_RUNS:
            del self._runs[next(iter(self._runs))]
        return True
