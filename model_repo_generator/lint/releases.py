"""Releases of Triton: 24.10 of the container is 2.51 of the server.

A container is named after its month; the server's minor number has gone up by one a month since 23.01 (2.30),
but for 25.07, which brought 2.59.1 after 25.06's 2.59.0 (release pages of triton-inference-server/server).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_FORM = re.compile(r"v?(\d+)\.(\d+)(?:\.\d+)?(?:-[\w.-]+)?")
_FIRST_YEAR, _FIRST_MINOR, _MAJOR = 23, 30, 2
_SKIPPED = (25, 7)
"""The month that brought no minor number of its own."""


class UnknownRelease(Exception):
    """A text that names no release of Triton, or one that nothing is known of."""


@dataclass(frozen=True, order=True)
class Release:
    """`minor` of the server's version 2.minor."""

    minor: int

    def __str__(self) -> str:
        return f"{_MAJOR}.{self.minor}"

    @property
    def container(self) -> str:
        """The container's name, such as 24.10."""
        months = self.minor - _FIRST_MINOR
        months += months >= _months(*_SKIPPED)
        return f"{_FIRST_YEAR + months // 12}.{months % 12 + 1:02}"


SEEN = Release(51)
"""All rules were seen on it, unless they say otherwise."""
RECOMMENDED = Release(71)
"""The oldest that strangers should reach; read, not run. NVIDIA's security bulletins of 2026 ask for it: 5828
(getting around restricted APIs, CVE-2026-24207, 26.03), 5848 (26.04), 5853 (26.05), 5865 (26.06) and 5875
(26.07). Server pull requests: 8305 (many chunks on the stack, 25.07), 8570 (what a compressed body grows to),
8770 (65,536 chunks at most, 26.05).
"""
READ = Release(73)
"""The newest one whose notes and sources were read."""


def parse(text: str) -> Release:
    """'24.10', '24.10-py3', '2.51' or '2.51.0'. Raises UnknownRelease, also for releases older than SEEN."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise UnknownRelease(f"{text!r} is no release of Triton; give one such as {SEEN.container} or {SEEN}")
    first, second = int(match.group(1)), int(match.group(2))
    if first == _MAJOR:
        release = Release(second)
    elif first >= _FIRST_YEAR and 1 <= second <= 12:
        months = _months(first, second)
        release = Release(_FIRST_MINOR + months - (months >= _months(*_SKIPPED)))
    else:
        raise UnknownRelease(f"{text!r} is no release of Triton; give one such as {SEEN.container} or {SEEN}")
    if release < SEEN:
        raise UnknownRelease(
            f"{text!r} is older than {SEEN.container} ({SEEN}), the oldest release that there are rules for"
        )
    return release


def _months(year: int, month: int) -> int:
    return 12 * (year - _FIRST_YEAR) + month - 1
