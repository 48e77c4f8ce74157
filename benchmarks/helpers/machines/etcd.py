"""A real etcd of one member, for tests and benchmarks: started, killed, stopped, and kept busy."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from benchmarks.helpers.machines.hosts import Host
from planner.addresses import authority
from ppipe.serving.ports import free_base
from python_backend.leases.etcd_store import EtcdStore
from python_backend.leases.lease import Lease, StoreUnreachable, Swap

START_S = 60.0
_FIRST_PORT = 27_000


def find_etcd() -> str | None:
    """The program: on PATH, or where scripts/setup has unpacked Debian's."""
    unpacked = Path(sys.prefix) / "etcd" / "usr" / "bin" / "etcd"
    return shutil.which("etcd") or (str(unpacked) if unpacked.is_file() else None)


class Etcd:
    """A context: started when it is entered, gone afterwards. host: on which it runs, None for here; this
    process must reach it there.
    """

    def __init__(self, folder: Path, host: Host | None = None) -> None:
        self._folder = folder
        self._host = host
        self._port = free_base(_FIRST_PORT, 2)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients call it."""
        return f"http://{authority(self._address, self._port)}"

    @property
    def _address(self) -> str:
        return "127.0.0.1" if self._host is None else self._host.address

    def __enter__(self) -> Etcd:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.send(signal.SIGKILL)

    def start(self) -> None:
        """On what it kept from before, if anything. Returns when it answers."""
        program = find_etcd()
        assert program is not None
        peer = f"http://{authority(self._address, self._port + 1)}"
        flags = {
            "data-dir": str(self._folder / "data"),
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
        }
        with (self._folder / "etcd.log").open("ab") as log:
            command = [program, *(f"--{name}={value}" for name, value in flags.items())]
            if self._host is not None:
                command = self._host.command(command)
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        end_s = time.monotonic() + START_S
        store = EtcdStore([self.url])
        try:
            while True:
                try:
                    store.look("")
                    return
                except StoreUnreachable as error:
                    if self._process.poll() is not None or time.monotonic() > end_s:
                        said = (self._folder / "etcd.log").read_text(errors="replace")[-2_000:]
                        raise RuntimeError(f"etcd does not answer: {error}\n{said}") from error
                    time.sleep(0.05)
        finally:
            store.close()

    def send(self, number: signal.Signals) -> None:
        """A signal to the process; after SIGKILL it is gone when this returns."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def clear(self) -> None:
        """No lease is left."""
        everything = {"key": "AA==", "range_end": "AA=="}
        request = urllib.request.Request(f"{self.url}/v3/kv/deleterange", json.dumps(everything).encode())
        with urllib.request.urlopen(request, timeout=5):
            pass

    @contextlib.contextmanager
    def under_load(self) -> Iterator[None]:
        """Somebody else swaps leases all the time."""
        ended = threading.Event()

        def swap() -> None:
            store, lease = EtcdStore([self.url]), Lease("load/0", "load", "", 1)
            while not ended.is_set():
                with contextlib.suppress(StoreUnreachable):
                    store.swap(Swap(store.look("load/").get(lease.name), lease))
                    lease = lease.renewed()
            store.close()

        threads = [threading.Thread(target=swap) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()
