"""What the servers of other hosts do, told by the host that waits for them.

Rules
- A line for every change, and none without one: a host that does not answer, answers, has other ticket keys.
- Whether two hosts have one ticket key is asked of a stage by a ticket that it must refuse: with our key for
  being of no revision, with another for its signature. So no work is done, and no key is shown. Of several
  entries it is asked in the same way, by the mark of a frame that is passed on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from enum import Enum

from planner.addresses import same_host
from planner.manifest import DeploymentManifest, ServerAddress
from ppipe.serving.probe import ModelProber, ProbeVerdict
from python_backend.wire.signing.keys import Keys

LOOK_S = 1.0
TIMEOUT_S = 1.0


class HostState(Enum):
    """Of another host."""

    SILENT = "does not answer"
    LOADING = "answers, and is loading"
    ANSWERS = "answers"
    OTHER_KEYS = "has other ticket keys"


class Neighbours:
    """Looks at the hosts of `manifest` that have none of the servers in `here`, from `start` to `stop`.
    `said` takes lines, from a thread of its own.
    """

    def __init__(
        self,
        manifest: DeploymentManifest,
        here: Sequence[ServerAddress],
        keys: Keys,
        said: Callable[[str], None],
        look_s: float = LOOK_S,
    ) -> None:
        mine = {same_host(server.host) for server in here}
        self._hosts: dict[str, list[ServerAddress]] = {}
        for server in manifest.every_server:
            if server.models and same_host(server.host) not in mine:
                self._hosts.setdefault(server.host, []).append(server)
        self._manifest = manifest
        self._keys = keys
        self._said = said
        self._look_s = look_s
        self._states: dict[str, HostState] = {}
        self._whole = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="neighbours", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        if self._hosts:
            self._thread.start()

    def stop(self) -> None:
        """End; what is being asked is not waited for."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            for host, servers in self._hosts.items():
                state = self._look(servers)
                if not self._ended.is_set() and self._states.get(host) is not state:
                    self._states[host] = state
                    self._tell(host, servers, state)
            whole = all(state is HostState.ANSWERS for state in self._states.values())
            if whole and not self._whole and not self._ended.is_set():
                self._said("all hosts answer")
            self._whole = whole
            self._ended.wait(self._look_s)

    def _tell(self, host: str, servers: Sequence[ServerAddress], state: HostState) -> None:
        names = ", ".join(server.name for server in servers)
        line = f"host {host} ({names}) {state.value}"
        if state is HostState.OTHER_KEYS:
            line += (
                ": its stages refuse this host's tickets, and frames that need them fail; copy one file "
                "of ticket keys to all hosts"
            )
        elif state is HostState.SILENT and host not in self._states:
            line += " yet"
        self._said(line)

    def _look(self, servers: Sequence[ServerAddress]) -> HostState:
        states = {self._look_at(server) for server in servers}
        for state in (HostState.OTHER_KEYS, HostState.SILENT, HostState.LOADING):
            if state in states:
                return state
        return HostState.ANSWERS

    def _look_at(self, server: ServerAddress) -> HostState:
        with ModelProber(server.grpc_address, self._ended, self._manifest.tls_of(server)) as prober:
            if prober.ask_live(TIMEOUT_S).verdict is not ProbeVerdict.ANSWERS:
                return HostState.SILENT
            if not prober.is_server_ready(TIMEOUT_S):
                return HostState.LOADING
            if self._manifest.is_entry(server):
                model = self._manifest.models[0].dispatcher
                several = bool(self._manifest.more_entries)
                other_keys = several and prober.refuses_marks(model, self._keys, TIMEOUT_S)
                return HostState.OTHER_KEYS if other_keys else HostState.ANSWERS
            if prober.refuses_keys(server.models[0], self._keys, TIMEOUT_S):
                return HostState.OTHER_KEYS
            return HostState.ANSWERS
