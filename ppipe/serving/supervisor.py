"""Keeps one tritonserver running: a thread that gives it one life after the other.

Rules
- A server that ends before it ever served has failed: its log says why, and trying again would say it again.
  One that a signal ended, or that did not load in time, has said nothing (on a starved machine a tritonserver
  sometimes crashes or hangs as it starts), so it is tried once more.
- One that served and died is started again, after a wait that grows with each early death.
- Few servers load at a time, because loading is what costs processor time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from ppipe.serving.backoff import BackOff
from ppipe.serving.server_life import ServerDied, ServerLife, ServerPlan, StopAsked

_HELD_TICK_S = 0.2


class ServerState(Enum):
    """Where a server is in its life."""

    QUEUED = "queued"
    LOADING = "loading models"
    PROBING = "waiting for answers"
    SERVING = "serving"
    WAITING = "waiting to restart"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class ServerStatus:
    """A server as seen from outside; `detail` is the latest thing worth knowing."""

    name: str
    models: int
    state: ServerState = ServerState.QUEUED
    answering: int = 0
    restarts: int = 0
    has_served: bool = False
    pid: int | None = None
    detail: str = ""
    fault: str = ""
    """Why a server that serves is of no use: the program of one of its models fails on every batch."""


class ServerKeeper(threading.Thread):
    """Owns one server process. `loading` bounds how many servers load at once; `changed` hears every
    status.
    """

    def __init__(
        self,
        plan: ServerPlan,
        loading: threading.Semaphore,
        changed: Callable[[ServerStatus], None],
        may_probe: Callable[[str], bool] = lambda name: True,
    ) -> None:
        super().__init__(name=f"keeper-{plan.name}", daemon=True)
        self._plan = plan
        self._loading = loading
        self._changed = changed
        self._may_probe = may_probe
        self._stopping = threading.Event()
        self._may_start = threading.Event()
        self._may_start.set()
        self._served_from_s: float | None = None
        self._more_starts = 1
        self._unexplained = False
        self._reporting = threading.Lock()
        self.status = ServerStatus(name=plan.name, models=len(plan.models))

    def stop(self) -> None:
        """Ask the thread to end its server and itself; join it afterwards."""
        self._stopping.set()

    def hold(self) -> None:
        """Once its server has ended, start no other until `release`."""
        self._may_start.clear()

    def release(self) -> None:
        """Its server may be started again."""
        self._may_start.set()

    def run(self) -> None:
        """The server's lives, one after the other."""
        back_off = BackOff()
        if self._plan.folder is not None:
            self._plan.folder.make(self._plan.models)
        try:
            while True:
                self._run_one_life()
                if not self.status.has_served and not self._is_tried_again():
                    self._report(state=ServerState.FAILED)
                    return
                self._report(state=ServerState.WAITING, restarts=self.status.restarts + 1)
                if self._stopping.wait(back_off.after(self._served_s())):
                    raise StopAsked
                while not self._may_start.wait(_HELD_TICK_S):
                    if self._stopping.is_set():
                        raise StopAsked
        except StopAsked:
            self._report(state=ServerState.STOPPED, pid=None, answering=0)

    def _is_tried_again(self) -> bool:
        self._more_starts -= int(self._unexplained)
        return self._unexplained and self._more_starts >= 0

    def _run_one_life(self) -> None:
        """Start, serve, die. Raises StopAsked."""
        self._served_from_s = None
        self._queue()
        loading = True
        try:
            with ServerLife(self._plan, self._stopping, self._note) as life:
                self._report(state=ServerState.LOADING)
                life.wait_until_loaded()
                self._loading.release()
                loading = False
                self._report(state=ServerState.PROBING, pid=life.pid, models=len(life.models))
                life.wait_until(lambda: self._may_probe(self._plan.name))
                life.wait_until_answering(lambda count: self._report(answering=count))
                self._served_from_s = time.monotonic()
                self._report(state=ServerState.SERVING, has_served=True)
                life.watch(self._fails, lambda models: self._report(models=models, answering=models))
        except ServerDied as death:
            self._unexplained = death.unexplained
            self._report(detail=str(death), pid=None, answering=0)
        finally:
            if loading:
                self._loading.release()

    def _queue(self) -> None:
        while not self._loading.acquire(timeout=0.2):
            if self._stopping.is_set():
                raise StopAsked

    def _served_s(self) -> float:
        return 0.0 if self._served_from_s is None else time.monotonic() - self._served_from_s

    def _fails(self, reason: str) -> None:
        self._report(fault=reason, detail=reason or "its models compute again")

    def _note(self, detail: str) -> None:
        self._report(detail=detail)

    def _report(self, **changes: Any) -> None:
        with self._reporting:
            self.status = status = replace(self.status, **changes)
        self._changed(status)
