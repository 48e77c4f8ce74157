"""What can be watched: video files, pictures, streams of the network, webcams.

Rules
- A source's stream has the name that stands before '=', or one made of its file, host or device; where two
  would have the same made name, the later ones get a number.
- What is shown of an address leaves user and password out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
PICTURES_PER_S = 10.0
"""Of a folder whose rate is not stated."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WEBCAM = re.compile(r"/dev/video\d+")


class WatchError(ValueError):
    """What cannot be watched; the message names the source or the option."""


class Kind(Enum):
    """How a source is read."""

    FILE = "file"
    PICTURES = "pictures"
    NETWORK = "network"
    WEBCAM = "webcam"


@dataclass(frozen=True)
class WatchSource:
    """One stream of frames. fps: the most that are sent; None: all of them."""

    stream: str
    location: str
    kind: Kind
    fps: float | None = None

    @property
    def live(self) -> bool:
        """Whether it goes on by itself, and is opened again when it breaks off."""
        return self.kind in (Kind.NETWORK, Kind.WEBCAM)

    @property
    def shown(self) -> str:
        """The location as it may be printed."""
        return re.sub(r"(?<=://)[^/@]*@", "", self.location)


def parse_sources(texts: Sequence[str], rates: Sequence[str] = ()) -> tuple[WatchSource, ...]:
    """Sources as `LOCATION` or `NAME=LOCATION`, rates as `FPS` for all or `NAME=FPS`. Raises WatchError."""
    fps = _rates(rates)
    found: list[WatchSource] = []
    for text in texts:
        name, location = _named(text)
        taken = {source.stream for source in found}
        if name in taken:
            raise WatchError(f"{text}: the name {name!r} is used more than once")
        stream = name or _made_name(location, taken)
        found.append(WatchSource(stream, location, _kind(location), fps.get(stream, fps.get(""))))
    for name in fps:
        if name and name not in {source.stream for source in found}:
            known = ", ".join(source.stream for source in found)
            raise WatchError(f"--fps {name}={fps[name]:g}: no stream has that name; there are {known}")
    return tuple(found)


def _named(text: str) -> tuple[str, str]:
    """Name, '' without one, and location. A file that is there is no name."""
    name, equals, location = text.partition("=")
    if not equals or _URL.match(text) or Path(text).exists() or "/" in name:
        return "", text
    if not _NAME.fullmatch(name):
        raise WatchError(f"{text}: the name {name!r}; expected up to 64 letters, digits and _ . -")
    return name, location


def _kind(location: str) -> Kind:
    """Raises WatchError for what is not there."""
    if _URL.match(location):
        return Kind.NETWORK
    if _WEBCAM.fullmatch(location):
        return Kind.WEBCAM
    path = Path(location)
    if path.is_dir() or path.suffix.lower() in PICTURE_SUFFIXES:
        return Kind.PICTURES
    return Kind.FILE


def _made_name(location: str, taken: set[str]) -> str:
    plain = (urlsplit(location).hostname or "") if _URL.match(location) else Path(location).absolute().stem
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-._")[:60] or "stream"
    numbered = (f"{name}-{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(each for each in numbered if each not in taken)


def _rates(texts: Sequence[str]) -> dict[str, float]:
    """Frames/s by name, '' for all others. Raises WatchError."""
    found = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if not 0 < value <= 1000:
            raise WatchError(f"--fps {text}: expected frames/s above 0 and up to 1000, or NAME=FRAMES/S")
        found[name] = value
    return found
