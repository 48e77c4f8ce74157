"""The policies by name."""

from __future__ import annotations

from python_backend.scheduler.adaptive import AdaptivePolicy
from python_backend.scheduler.policy import Policy
from python_backend.scheduler.reactive import ReactivePolicy
from python_backend.scheduler.reference import ReferencePolicy

POLICIES: tuple[str, ...] = ("adaptive", "reference", "reactive")


def make_policy(name: str) -> Policy:
    """A new policy of that name. Raises ValueError."""
    if name == "adaptive":
        return AdaptivePolicy()
    if name == "reference":
        return ReferencePolicy()
    if name == "reactive":
        return ReactivePolicy()
    raise ValueError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}")
