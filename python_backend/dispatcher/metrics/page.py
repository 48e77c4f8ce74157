"""A small page over HTTP that strangers may ask for without doing harm: /metrics of a dispatcher.

Rules
- At most MOST_CONNECTIONS at once, further ones are closed at once; each for CONNECTION_S at most, however
  slowly it sends or reads.
- The page is made at most once in FRESH_S, so that asking often takes no time from the dispatcher.
- One request per connection, GET alone, nothing of a body is read.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from python_backend.wire.sockets import resolved

MOST_CONNECTIONS = 16
CONNECTION_S = 5.0
FRESH_S = 0.25
RETRY_S = 2.0
_OPENMETRICS = "application/openmetrics-text"
Make = Callable[[bool], tuple[bytes, str]]
"""Body and content type; True: as OpenMetrics."""


class MetricsPage:
    """Serves what `make` gives, until closed; asked for OpenMetrics (True) or Prometheus' own text."""

    def __init__(self, make: Make, address: tuple[str, int]) -> None:
        """Raises OSError when the port is taken."""
        family, found = resolved(*address, socket.SOCK_STREAM)
        self._server = _SERVERS[family](found, _handler(_Fresh(make)))
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The bound port."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """End the thread, give up the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class WantedPage:
    """A page that opens as soon as its TCP port is free: the process that had it may be about to end."""

    def __init__(self, name: str, make: Make, address: tuple[str, int], log: Callable[[str], None]) -> None:
        self._make = make
        self._address = address
        self._page: MetricsPage | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(
            target=self._retry, args=(name, log), name="metrics port", daemon=True
        )
        try:
            self._page = MetricsPage(make, address)
        except OSError as error:
            log(f"{name}: no metrics yet: TCP port {address[1]}: {error.strerror}; tried again and again")
            self._thread.start()

    def close(self) -> None:
        """Give up the port, or the wish for it."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._page is not None:
            self._page.close()

    def _retry(self, name: str, log: Callable[[str], None]) -> None:
        while self._page is None and not self._closing.wait(RETRY_S):
            with contextlib.suppress(OSError):
                self._page = MetricsPage(self._make, self._address)
                log(f"{name}: metrics on TCP port {self._address[1]}")


def open_page(
    name: str, load: Callable[[], Make], address: tuple[str, int], log: Callable[[str], None]
) -> WantedPage | None:
    """The page of `name`, made by what `load` imports, now or when its TCP port is free; None when
    prometheus_client is not installed. The log says so: frames are served all the same.
    """
    try:
        return WantedPage(name, load(), address, log)
    except ModuleNotFoundError as error:
        log(f"{name}: no metrics: {error}; pip install prometheus-client")
        return None


class _Fresh:
    """Each of the two formats, made anew when it is older than FRESH_S."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: dict[bool, tuple[float, tuple[bytes, str]]] = {}

    def page(self, openmetrics: bool) -> tuple[bytes, str]:
        with self._lock:
            made_s, page = self._made.get(openmetrics, (-math.inf, (b"", "")))
            if time.monotonic() - made_s > FRESH_S:
                page = self._make(openmetrics)
                self._made[openmetrics] = (time.monotonic(), page)
            return page


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Where more wait than this to be taken, the kernel drops who comes, who tries again after 1, 3 and 7 s.
    request_queue_size = 128

    def __init__(self, address: Any, handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        # A time limit of the socket's own counts anew with every byte.
        ending = threading.Timer(CONNECTION_S, _end, args=(request,))
        ending.daemon = True
        ending.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            ending.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller who went away, or was made to, is no news."""


class _Ipv6Server(_Server):
    address_family = socket.AF_INET6


_SERVERS: Mapping[int, type[_Server]] = {socket.AF_INET: _Server, socket.AF_INET6: _Ipv6Server}


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)


def _handler(fresh: _Fresh) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = CONNECTION_S

        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404, "there is /metrics")
                return
            body, content_type = fresh.page(_OPENMETRICS in self.headers.get("Accept", ""))
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler
