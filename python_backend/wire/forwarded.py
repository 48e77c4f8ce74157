"""What goes with a frame that one entry passes on to another: JSON text in the request parameter
`ppipe_forwarded`, signed with the deployment's key.

    {"v": 1, "deployment": "street", "model": "resnet18", "from": "entry-0", "to": "entry-1",
     "left_us": 41000, "priority": 0, "stream": "", "place": -1, "caller": "192.0.2.7",
     "stamp": ["<run>", <number>, <time of day>], "mac": "..."}

Rules
- Who gets it schedules the frame himself, whatever his own queue: a frame is passed on once.
- left_us: until the answer has to leave there. Hosts share no clock, so the way there and back is taken off
  by the sender.
- A mark is good once, and not for long, as a ticket is (wire.signing.replays): who reads it uses its stamp.
- Who has called is said by the front of the entry that passes the frame on; "" where it has none.
- Nobody but an entry may say this: a client could keep its frames at an entry with it. So it is signed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from python_backend.wire.signing.keys import Keys, Stamp, TicketError
from python_backend.wire.signing.signatures import object_in, signed_object

PARAMETER: Final = "ppipe_forwarded"
FOREIGN_KEY: Final = "the signature is not of another entry of this deployment"
_FORMAT: Final = 1
_TEXT_LIMIT: Final = 4_000
_FIELDS: Final[Mapping[str, type]] = {
    "deployment": str,
    "model": str,
    "from": str,
    "to": str,
    "left_us": int,
    "priority": int,
    "stream": str,
    "place": int,
    "caller": str,
}


@dataclass(frozen=True, slots=True)
class Forwarded:
    """See the module. stamp: of its signing, once it is signed."""

    deployment: str
    model: str
    sender: str
    receiver: str
    left_us: int
    priority: int = 0
    stream: str = ""
    place: int = -1
    caller: str = ""
    stamp: Stamp | None = field(default=None, compare=False)


def encode(mark: Forwarded, keys: Keys) -> str:
    """The parameter's text."""
    stamp = keys.stamp()
    body = {
        "v": _FORMAT,
        "deployment": mark.deployment,
        "model": mark.model,
        "from": mark.sender,
        "to": mark.receiver,
        "left_us": mark.left_us,
        "priority": mark.priority,
        "stream": mark.stream,
        "place": mark.place,
        "caller": mark.caller,
        "stamp": [stamp.run, stamp.number, stamp.sent_us],
    }
    return signed_object(json.dumps(body, separators=(",", ":"))[:-1], keys)


def stray_text(keys: Keys) -> str:
    """A mark that every entry refuses: who has the same keys for its addressee, others for its signature."""
    return encode(Forwarded(deployment="", model="", sender="", receiver="", left_us=0), keys)


def decode(text: str, keys: Keys, deployment: str, model: str, entry: str) -> Forwarded:
    """What another entry says of a frame of `model` that it passes on to `entry`. Raises TicketError."""
    if len(text) > _TEXT_LIMIT:
        raise TicketError(f"{PARAMETER}: {len(text)} characters; expected at most {_TEXT_LIMIT}")
    signed = object_in(text, keys)
    if signed is None:
        raise TicketError(f"{PARAMETER}: {FOREIGN_KEY}")
    try:
        body = json.loads(signed)
    except (ValueError, RecursionError) as error:
        raise TicketError(f"{PARAMETER}: {error}") from error
    if body.get("v") != _FORMAT:
        raise TicketError(f"{PARAMETER}: format {body.get('v')!r:.40}; this entry reads format {_FORMAT}")
    body.setdefault("caller", "")  # entries of an earlier release do not say it
    values = {name: _checked(body, name, kind) for name, kind in _FIELDS.items()}
    for name, mine in (("deployment", deployment), ("model", model), ("to", entry)):
        if values[name] != mine:
            raise TicketError(f"{PARAMETER}: {name} is {values[name]!r:.80}; this is {mine!r}")
    values["sender"], values["receiver"] = values.pop("from"), values.pop("to")
    return Forwarded(**values, stamp=_stamp_of(body.get("stamp")))


def _stamp_of(value: Any) -> Stamp:
    match value:
        case [str(run), int(number), int(sent_us)] if max(abs(number), abs(sent_us)) < 1 << 62:
            return Stamp(run, number, sent_us)
    raise TicketError(f"{PARAMETER}: stamp is {value!r:.40}; expected a run, a number and a time of day")


def _checked(body: Mapping[str, Any], name: str, kind: type) -> Any:
    value: Any = body.get(name)
    if type(value) is not kind or (isinstance(value, int) and abs(value) >= 1 << 62):
        raise TicketError(f"{PARAMETER}: {name} is {value!r:.40}; expected {kind.__name__}")
    return value
