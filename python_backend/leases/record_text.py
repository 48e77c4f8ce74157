"""A lease as the text that stores keep."""

from __future__ import annotations

import json

from python_backend.leases.lease import Lease, StoreUnreachable

_FIELDS = {"holder": str, "run": str, "term": int, "beat": int, "heir": str}


def to_text(lease: Lease) -> str:
    """Canonical: equal leases have equal texts, so that a store may compare texts."""
    return json.dumps({field: getattr(lease, field) for field in _FIELDS}, separators=(",", ":"))


def from_text(name: str, text: str | bytes) -> Lease:
    """Raises StoreUnreachable for what no lease of ours is: somebody else writes there."""
    try:
        body = json.loads(text)
        values = {field: body[field] for field in _FIELDS}
    except (ValueError, TypeError, KeyError) as error:
        raise StoreUnreachable(f"lease {name!r}: {text!r:.80} is no lease; expected {_wanted()}") from error
    for field, kind in _FIELDS.items():
        if type(values[field]) is not kind:
            raise StoreUnreachable(f"lease {name!r}: {field} {values[field]!r:.40}; expected {_wanted()}")
    return Lease(name=name, **values)


def _wanted() -> str:
    return ", ".join(f"{field} ({kind.__name__})" for field, kind in _FIELDS.items())
