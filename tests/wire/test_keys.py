"""Signatures are HMAC-SHA256's, as the standard library makes them."""

from __future__ import annotations

import hashlib
import hmac
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from python_backend.wire.signing.keys import Keys

KEYS = st.binary(min_size=16, max_size=200).filter(
    lambda key: key == key.strip() and b"\n" not in key and b"\r" not in key
)
"""Lines of a key file; those of more than 64 bytes are longer than a block of the hash."""


@given(KEYS, st.text())
def test_a_signature_is_the_library_s(key: bytes, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ticket.key")
        path.write_bytes(key)
        keys = Keys(path)
    assert keys.mac(text) == hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    assert keys.accepts(text, keys.mac(text))
    assert not keys.accepts(text + "x", keys.mac(text))
