"""Which workers can be used: learned from failed hops and from probes that ask for an inference.

Rules
- A model that Triton calls ready may have a dead stub, so only an answered inference proves life.
- A failure that blames a worker takes it out; one that blames its server takes out all workers of that
  server, which come back one by one as their probes succeed. Workers heard of a moment ago are not to
  blame for a time-out.
- A worker that is taken out is probed at once.
- A worker that has just completed a batch is not probed: its notice is proof.
- Workers that another entry schedules are probed rarely, and at once when that changes: it asks them, too.
- A worker that is new is probed at once. One that a table has no more is looked after until nothing needs it.
- What is told of workers is numbered in the order in which it became true: threads may tell it in another.
- A stub that is dead is revived by its own host: nobody can load a model over the network.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from python_backend.wire.clock import now_us
from python_backend.wire.hop_failure import FailureKind, HopFailure
from python_backend.wire.threads import Crew
from python_backend.wire.transport import Target

_BLAMES_SERVER = (FailureKind.UNREACHABLE, FailureKind.TIMED_OUT)
_PROBERS = 8
_HEARD_LATELY_US = 300_000
_LONGEST_US = 1_000_000
"""Between two looks at who is to be asked, whatever the settings."""


class WorkerProber(Protocol):
    """Asks a worker for an inference."""

    def probe(self, worker: str, timeout_s: float) -> None:
        """Return when the worker answered. Raises HopFailure."""


@dataclass(frozen=True)
class HealthSettings:
    """Times in microseconds."""

    tick_us: int = 100_000
    idle_probe_us: int = 1_000_000
    others_probe_us: int = 3_000_000
    lost_probe_us: int = 200_000
    probe_timeout_us: int = 1_000_000


@dataclass
class _Worker:
    server: str
    prober: WorkerProber
    lost_since_us: int | None = None
    change: int = 0
    """The number of the last that was told of it."""
    seen_us: int = 0
    asked_us: int = 0
    asking: bool = False
    is_others: bool = False
    """Whether another entry schedules it."""


class Health:
    """See the module. `lost` and `back` are called with a worker's name and a number that rises with each
    change, from any thread. Thread-safe.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        prober: WorkerProber,
        lost: Callable[[str, int], None],
        back: Callable[[str, int], None],
        log: Callable[[str], None],
        settings: HealthSettings | None = None,
    ) -> None:
        self._workers = {
            name: _Worker(target.server.name, prober, seen_us=now_us()) for name, target in targets.items()
        }
        """Replaced as a whole, so that threads may go through it."""
        self._lost = lost
        self._back = back
        self._log = log
        self._settings = settings or HealthSettings()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._closing = False
        self._wake = threading.Event()
        self._crew = Crew("probe", _PROBERS, lambda error: log(f"probing failed: {error!r}"))
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def start(self) -> None:
        """Begin to probe."""
        self._thread.start()

    def close(self) -> None:
        """End all threads."""
        self._closing = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._crew.close()

    def look_after(self, targets: Mapping[str, Target], prober: WorkerProber) -> None:
        """From now on also after these workers. Those that are known stay in or out as they are."""
        workers = dict(self._workers)
        for name, target in targets.items():
            known = workers.get(name)
            if known is None:
                workers[name] = _Worker(target.server.name, prober)
            else:
                known.server, known.prober = target.server.name, prober
        self._workers = workers
        self._wake.set()

    def keep(self, names: Collection[str]) -> None:
        """Look after these alone."""
        self._workers = {name: worker for name, worker in self._workers.items() if name in names}

    def leave_to_others(self, names: Collection[str]) -> None:
        """These workers are scheduled by other entries, all others here."""
        for name, worker in self._workers.items():
            if worker.is_others and name not in names:
                worker.seen_us = worker.asked_us = 0
            worker.is_others = name in names
        self._wake.set()

    def seen(self, worker: str) -> None:
        """The worker has completed something."""
        known = self._workers.get(worker)
        if known is not None:
            known.seen_us = now_us()

    def failed(self, failure: HopFailure) -> None:
        """A hop or a probe failed."""
        workers = self._workers
        blamed = workers.get(failure.worker)
        if not failure.kind.blames_worker or blamed is None:
            return
        if failure.kind is FailureKind.TIMED_OUT and self._heard_lately(blamed):
            return  # of a request that was sent while it was stopped, or that got lost
        for name, worker in workers.items():
            if worker is blamed or self._is_blamed_too(worker, blamed.server, failure):
                self._take_out(name, worker, failure)
        self._wake.set()

    def _is_blamed_too(self, worker: _Worker, server: str, failure: HopFailure) -> bool:
        """Whether a failure of another worker, on `server`, speaks against this one."""
        if failure.kind not in _BLAMES_SERVER or worker.server != server:
            return False
        return failure.kind is not FailureKind.TIMED_OUT or not self._heard_lately(worker)

    @staticmethod
    def _heard_lately(worker: _Worker) -> bool:
        return now_us() - worker.seen_us < _HEARD_LATELY_US

    def workers(self) -> list[str]:
        """Names of all workers."""
        return list(self._workers)

    def lost_workers(self) -> list[str]:
        """Names of the workers that are out."""
        return [name for name, worker in self._workers.items() if worker.lost_since_us is not None]

    def reaches_any(self) -> bool:
        """Whether not all workers are out."""
        return not self._workers or any(worker.lost_since_us is None for worker in self._workers.values())

    def tell_lost(self) -> None:
        """Tell once more which workers are out, for who did not know them when it was told."""
        for name, worker in self._workers.items():
            with self._lock:
                lost, number = worker.lost_since_us is not None, worker.change
            if lost:
                self._lost(name, number)

    def _take_out(self, name: str, worker: _Worker, failure: HopFailure) -> None:
        with self._lock:
            if worker.lost_since_us is not None:
                return
            worker.lost_since_us = now_us()
            worker.asked_us = 0
            worker.change = number = next(self._numbers)
        self._log(f"worker {name} is out: {failure}")
        self._lost(name, number)

    def _bring_back(self, name: str, worker: _Worker) -> None:
        with self._lock:
            worker.seen_us = now_us()
            if worker.lost_since_us is None:
                return
            worker.lost_since_us = None
            worker.change = number = next(self._numbers)
        self._log(f"worker {name} is back")
        self._back(name, number)

    def _run(self) -> None:
        pause_us = 0
        while not self._closing:
            self._wake.wait(pause_us / 1e6)
            self._wake.clear()
            # Who is seen meanwhile is due later, and whatever else changes wakes us.
            pause_us = _LONGEST_US
            for name, worker in self._workers.items():
                left_us = self._left_us(worker, now_us())
                pause_us = min(pause_us, max(left_us, self._settings.tick_us))
                if left_us <= 0:
                    worker.asking = True
                    self._crew.submit(lambda name=name, worker=worker: self._ask(name, worker))  # type: ignore[misc]

    def _left_us(self, worker: _Worker, at_us: int) -> int:
        """Until it is to be asked."""
        settings = self._settings
        if worker.asking:
            return settings.tick_us
        if worker.lost_since_us is not None:
            return worker.asked_us + settings.lost_probe_us - at_us
        wait_us = settings.others_probe_us if worker.is_others else settings.idle_probe_us
        return max(worker.seen_us, worker.asked_us) + wait_us - at_us

    def _ask(self, name: str, worker: _Worker) -> None:
        prober = worker.prober
        try:
            prober.probe(name, self._settings.probe_timeout_us / 1e6)
        except HopFailure as failure:
            if worker.prober is prober:  # else its connections may have been closed with their table
                self.failed(failure)
        else:
            self._bring_back(name, worker)
        finally:
            worker.asked_us = now_us()
            worker.asking = False
