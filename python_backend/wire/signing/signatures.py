"""How what our processes tell each other carries its signature (keys.py): in datagrams and in parameters.

Rules
- A datagram begins with the mark of its kind, and has room for one Ethernet frame: its signature is cut to 32
  characters. Of text it stands between the mark and the text, of a packed body, which holds the mark, at the
  end.
- Of the JSON object in a request's parameter the signature is the last field.
- Where a deployment goes without keys the forms are the same, and whatever has them is genuine.
"""

from __future__ import annotations

from typing import Final

from python_backend.wire.signing.keys import Keys

_CHARACTERS: Final = 32
_FIELD: Final = ',"mac":"'


def text_datagram(mark: bytes, text: str, keys: Keys) -> bytes:
    """A datagram that says `text`."""
    return mark + keys.mac(text)[:_CHARACTERS].ljust(_CHARACTERS).encode() + text.encode()


def text_in(datagram: bytes, mark: bytes, keys: Keys) -> str | None:
    """What a datagram of this kind says; None for anything that is not a genuine one."""
    if not datagram.startswith(mark):
        return None
    start = len(mark)
    said = datagram[start:].decode("utf-8", "replace")
    mac, text = said[:_CHARACTERS], said[_CHARACTERS:]
    return text if keys.accepts_prefix(text, mac, _CHARACTERS) else None


def packed_datagram(body: bytes, keys: Keys) -> bytes:
    """A datagram of a packed body, which begins with its mark."""
    return body + keys.mac(body.hex())[:_CHARACTERS].encode()


def body_in(datagram: bytes, mark: bytes, size: int, keys: Keys) -> bytes | None:
    """The body, of `size` bytes, of a datagram of this kind; None for anything that is not a genuine one."""
    body, mac = datagram[:size], datagram[size:]
    if len(body) != size or not body.startswith(mark):
        return None
    genuine = keys.accepts_prefix(body.hex(), mac.decode("ascii", "replace"), _CHARACTERS)
    return body if genuine else None


def signed_object(fields: str, keys: Keys) -> str:
    """A JSON object with its signature. fields: its text without the brace at the end."""
    return f'{fields}{_FIELD}{keys.mac(fields + "}")}"}}'


def is_signed(text: str) -> bool:
    """Whether it has a signature, of whomever."""
    return _FIELD in text


def object_in(text: str, keys: Keys) -> str | None:
    """The JSON object that was signed; None for anything that is not genuine."""
    fields, field, mac = text.rpartition(_FIELD)
    signed = fields + "}"
    return signed if field and mac.endswith('"}') and keys.accepts(signed, mac[:-2]) else None
