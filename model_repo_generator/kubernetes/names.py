"""Names of Kubernetes objects, and the checks that keep foreign text out of places where it would mean more.

Rules
- Object names are DNS labels; one that is derived from a deployment's names is lowered, '_' and '.' become
  '-'.
- Nothing is shortened: two long names could become one. What does not fit is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MAX_LABEL = 63
MAX_STATEFUL_SET = 52
"""A StatefulSet's pods carry its name plus '-' and a hash of ten characters as a label."""

_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)


class BundleFault(ValueError):
    """A deployment that cannot be put into a bundle; one line per fault, each says what would be accepted."""


def dns_label(text: str, where: str, limit: int = MAX_LABEL) -> str:
    """`text` as the name of an object. Raises BundleFault."""
    made = re.sub(r"[_.]", "-", text.lower())
    if not is_dns_label(made) or len(made) > limit:
        raise BundleFault(
            f"{where}: {text!r} would name a Kubernetes object {made!r}; it must be at most {limit} letters, "
            "digits and '-', with a letter first and no '-' last"
        )
    return made


def is_dns_label(text: str) -> bool:
    """Whether a Service may be called `text` (RFC 1035)."""
    return len(text) <= MAX_LABEL and _DNS_LABEL.fullmatch(text) is not None


def is_label_value(text: str) -> bool:
    """Whether `text` may be the value of a label."""
    return _LABEL_VALUE.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether `text` may be the key of a label, with or without a prefix."""
    return _LABEL_KEY.fullmatch(text) is not None


def check_distinct(owners: Iterable[tuple[str, str]]) -> None:
    """`owners` are (name, who wants it). Raises BundleFault where two want one name."""
    seen: dict[str, str] = {}
    for name, owner in owners:
        other = seen.setdefault(name, owner)
        if other != owner:
            raise BundleFault(f"{owner} and {other} would both be called {name!r}: rename one of them")
