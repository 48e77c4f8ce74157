"""Leases in etcd, through its JSON gateway: two kinds of call, for which the standard library is enough.

Rules
- Reads are linearizable, etcd's default: a member that is cut off from the others does not answer them.
- A lease is a plain key. etcd's own leases are not used: with its default election time-out none is shorter
  than 2 s, and they run out while etcd is stopped.
- The members are tried in turn, beginning with the one that answered last.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import json
import ssl
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from python_backend.leases.lease import Lease, StoreUnreachable, Swap
from python_backend.leases.record_text import from_text, to_text

ANSWER_S = 0.4
"""How long a member is waited for."""
_ROOT = "ppipe/"
"""Before every key, so that etcd can be shared with others."""


@dataclass(frozen=True)
class EtcdTls:
    """PEM files: the CA of etcd's certificates, and our own certificate and key; '' for none."""

    ca: str = ""
    certificate: str = ""
    key: str = ""


class EtcdStore:
    """`endpoints`: URLs of the members, such as http://10.0.0.5:2379. Not thread-safe."""

    def __init__(
        self, endpoints: Sequence[str], tls: EtcdTls | None = None, answer_s: float = ANSWER_S
    ) -> None:
        """Raises ValueError, OSError (a TLS file that cannot be read)."""
        if not endpoints:
            raise ValueError("etcd: no endpoint; expected a URL such as http://10.0.0.5:2379")
        self._endpoints = [_checked(endpoint) for endpoint in endpoints]
        self._answer_s = answer_s
        self._context = (
            _context(tls or EtcdTls()) if any(url.startswith("https:") for url in endpoints) else None
        )
        self._connections: dict[str, http.client.HTTPConnection] = {}

    def look(self, prefix: str) -> Mapping[str, Lease]:
        """See LeaseStore."""
        first = (_ROOT + prefix).encode()
        said = self._call("range", {"key": _base64(first), "range_end": _base64(_after(first))})
        found = {}
        for key, value in _pairs(said.get("kvs", [])):
            name = _plain(key).decode("utf-8", "replace").removeprefix(_ROOT)
            found[name] = from_text(name, _plain(value))
        return found

    def swap(self, swap: Swap) -> bool:
        """See LeaseStore."""
        key = _base64((_ROOT + swap.new.name).encode())
        if swap.seen is None:
            compare = {"key": key, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
        else:
            seen = _base64(to_text(swap.seen).encode())
            compare = {"key": key, "target": "VALUE", "result": "EQUAL", "value": seen}
        put = {"request_put": {"key": key, "value": _base64(to_text(swap.new).encode())}}
        return self._call("txn", {"compare": [compare], "success": [put]}).get("succeeded") is True

    def swap_all(self, swaps: Sequence[Swap]) -> list[bool]:
        """See LeaseStore. A call for each."""
        return [self.swap(swap) for swap in swaps]

    def close(self) -> None:
        """See LeaseStore."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _call(self, what: str, body: Mapping[str, Any]) -> dict[str, Any]:
        faults = []
        for endpoint in list(self._endpoints):
            try:
                answer = self._ask(endpoint, f"/v3/kv/{what}", json.dumps(body))
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._give_up(endpoint)
                faults.append(f"{endpoint}: {error or type(error).__name__}")
                continue
            self._endpoints.remove(endpoint)
            self._endpoints.insert(0, endpoint)
            return answer
        raise StoreUnreachable(f"etcd: {'; '.join(faults)}")

    def _give_up(self, endpoint: str) -> None:
        connection = self._connections.pop(endpoint, None)
        if connection is not None:
            connection.close()

    def _ask(self, endpoint: str, path: str, body: str) -> dict[str, Any]:
        connection = self._connections.get(endpoint)
        if connection is None:
            connection = self._connections[endpoint] = self._connection(endpoint)
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != http.client.OK:
            raise ValueError(f"status {response.status}: {text[:120].decode('utf-8', 'replace').strip()}")
        answer = json.loads(text)
        if not isinstance(answer, dict):
            raise ValueError(f"{text[:80]!r} is no answer of etcd's")
        return answer

    def _connection(self, endpoint: str) -> http.client.HTTPConnection:
        url = urllib.parse.urlsplit(endpoint)
        assert url.hostname is not None
        if self._context is not None and url.scheme == "https":
            return http.client.HTTPSConnection(
                url.hostname, url.port, timeout=self._answer_s, context=self._context
            )
        return http.client.HTTPConnection(url.hostname, url.port, timeout=self._answer_s)


def _checked(endpoint: str) -> str:
    url = urllib.parse.urlsplit(endpoint)
    try:
        port = url.port
    except ValueError:
        port = None
    if url.scheme not in ("http", "https") or not url.hostname or port is None or url.path.strip("/"):
        raise ValueError(f"etcd endpoint {endpoint!r}: expected a URL such as http://10.0.0.5:2379")
    return endpoint


def _context(tls: EtcdTls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca or None)
    if tls.certificate:
        context.load_cert_chain(tls.certificate, tls.key or None)
    return context


def _after(prefix: bytes) -> bytes:
    """The first key behind all that begin so; names are text, whose bytes end below 0xff."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _pairs(said: Any) -> list[tuple[str, str]]:
    """Keys and values of an answer, as they came."""
    try:
        pairs = [(pair["key"], pair.get("value", "")) for pair in said]
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreUnreachable(f"etcd: {said!r:.80} are no keys and values") from error
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise StoreUnreachable(f"etcd: {said!r:.80} are no keys and values of text")
    return pairs


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _plain(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise StoreUnreachable(f"etcd: {text!r:.40} is not base64") from error
