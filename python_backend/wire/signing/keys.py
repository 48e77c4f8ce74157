"""The keys of a deployment: they sign tickets, notices and reports, and tell genuine ones from others.

Rules
- Keys come from a file, one per line: the first signs, all verify, so that a key is rotated by first adding
  the new one behind the old, then moving it to the front, then removing the old one.
- Without a key nothing is genuine, unless the deployment says that its tickets go unsigned.
- Each signing gets a stamp: the run of the process that signs, a number that it never uses twice, and the
  time of day. Receivers remember stamps (wire.signing.replays).
- What a message carries besides its ticket is covered by a digest: the MAC of AEGIS-128X2 under a key
  derived for the signer's run, with the stamp's number as its nonce. It takes a few microseconds and 4 more
  for each 100 KB, a third of AES-GMAC's time on processors without AVX-512.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from python_backend.scheduler.declare import record
from python_backend.scheduler.record import Record
from python_backend.wire.clock import now_us

KEY_FILE_VARIABLE = "PPIPE_TICKET_KEY_FILE"
"""Environment variable with the path of the key file."""
_LOOK_US = 500_000
"""How often the key file is looked at."""
_MOST_DERIVED = 1024
_BLOCK: Final = 64
"""Bytes of a block of SHA-256."""


class TicketError(ValueError):
    """A ticket that cannot be read or is not for this receiver; the message says what would be accepted."""


@record
class Stamp(Record):
    """Of one signing: `run` of the signing process, `number` there, and when it was (us, time of day)."""

    run: str
    number: int
    sent_us: int


def wall_us() -> int:
    """The time of day in microseconds since 1970: what hosts share, as well as their clocks are set."""
    return time.time_ns() // 1000


class Keys:
    """The keys of one deployment. The file is looked at again now and then, and when a signature fits no key;
    one that is being replaced leaves the old keys in force. Thread-safe.
    """

    def __init__(self, path: Path | None, look_us: int = _LOOK_US, unsigned: bool = False) -> None:
        """path: None for no keys. unsigned: take everything then, instead of nothing. Raises OSError,
        TicketError.
        """
        self._path = path
        self._look_us = look_us
        self._looked_us = now_us()
        self._stamp: tuple[int, int] | None = None
        self._texts: tuple[bytes, ...] = ()
        self._keys: tuple[_Keyed, ...] = ()
        self._derived: dict[tuple[bytes, str], bytes] = {}
        self._run = secrets.token_hex(8)
        self._numbers = itertools.count()
        self.unsigned: Final = unsigned and path is None
        """Whether everything is taken to be genuine."""
        if path is not None:
            self._read(path)

    @classmethod
    def from_environment(cls, unsigned: bool = False) -> Keys:
        """The keys in the file named by PPIPE_TICKET_KEY_FILE. unsigned: whether the deployment goes without
        where there is none. Raises OSError, TicketError.
        """
        path = os.environ.get(KEY_FILE_VARIABLE)
        return cls(Path(path) if path else None, unsigned=unsigned)

    @classmethod
    def none(cls) -> Keys:
        """No keys, and none asked for."""
        return cls(None, unsigned=True)

    @property
    def signing(self) -> bool:
        """Whether there are keys."""
        return self._path is not None

    def stamp(self) -> Stamp:
        """The stamp of a signing now; no other has the same."""
        return Stamp(self._run, next(self._numbers), wall_us())

    def mac(self, text: str) -> str:
        """The signature of `text` with the first key; '' when nothing is signed."""
        self._look()
        return self._keys[0].mac(text) if self._keys else ""

    def accepts(self, text: str, mac: str) -> bool:
        """Whether any key signed `text`."""
        return self.accepts_prefix(text, mac, 64)

    def accepts_prefix(self, text: str, mac: str, length: int) -> bool:
        """As `accepts`, for signatures cut to their first `length` characters."""
        if self.unsigned:
            return True
        self._look()
        given = mac.encode("utf-8", "replace")
        return self._fits_any(text, given, length) or (
            self._look(at_once=True) and self._fits_any(text, given, length)
        )

    def digest(self, stamp: Stamp, pieces: Iterable[bytes | memoryview]) -> str:
        """Of these bytes, one after the other, under the first key; '' when nothing is signed."""
        texts = self._texts
        return _digest(self._derived_key(texts[0], stamp.run), stamp.number, pieces) if texts else ""

    def accepts_digest(self, stamp: Stamp, pieces: Iterable[bytes | memoryview], digest: str) -> bool:
        """Whether any key made this digest."""
        if self.unsigned:
            return True
        given, parts = digest.encode("utf-8", "replace"), list(pieces)
        return any(
            hmac.compare_digest(
                _digest(self._derived_key(text, stamp.run), stamp.number, parts).encode(), given
            )
            for text in self._texts
        )

    def _derived_key(self, text: bytes, run: str) -> bytes:
        key = self._derived.get((text, run))
        if key is None:
            if len(self._derived) >= _MOST_DERIVED:
                self._derived.clear()
            key = hmac.digest(text, b"digest of " + run.encode(), "sha256")[:16]
            self._derived[text, run] = key
        return key

    def _fits_any(self, text: str, given: bytes, length: int) -> bool:
        return any(hmac.compare_digest(key.mac(text)[:length].encode(), given) for key in self._keys)

    def _look(self, at_once: bool = False) -> bool:
        """Read the file again if it has changed; whether that was looked at."""
        path, time_us = self._path, now_us()
        if path is None or (time_us - self._looked_us < self._look_us and not at_once):
            return False
        self._looked_us = time_us
        with contextlib.suppress(OSError, TicketError):
            self._read(path)
        return True

    def _read(self, path: Path) -> None:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamp:
            return
        texts = tuple(line.strip() for line in path.read_bytes().splitlines() if line.strip())
        if not texts or min(map(len, texts)) < 16:
            raise TicketError(f"{path}: expected one key of at least 16 characters per line")
        self._texts = texts
        self._keys = tuple(_Keyed(key) for key in texts)
        self._derived = {}
        self._stamp = stamp


class _Keyed:
    """HMAC-SHA256 under one key (RFC 2104): two hashes that have taken in the key, and are copied to sign. In
    half the time of hmac.HMAC, which is interpreted, and a third of hmac.digest, which also gives the
    interpreter's lock away.
    """

    def __init__(self, key: bytes) -> None:
        block = (key if len(key) <= _BLOCK else hashlib.sha256(key).digest()).ljust(_BLOCK, b"\0")
        self._inner: Final = hashlib.sha256(bytes([byte ^ 0x36 for byte in block]))
        self._outer: Final = hashlib.sha256(bytes([byte ^ 0x5C for byte in block]))

    def mac(self, text: str) -> str:
        """The signature of `text`, as 64 hexadecimal digits."""
        inner = self._inner.copy()
        inner.update(text.encode())
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest()


def _digest(key: bytes, number: int, pieces: Iterable[bytes | memoryview]) -> str:
    # Imported here: only hops between hosts without TLS need it.
    from aeg import aegis128x2

    mac = aegis128x2.Mac(key, number.to_bytes(aegis128x2.NONCEBYTES, "big"))
    for piece in pieces:
        mac.update(piece)
    return str(mac.hexdigest())
