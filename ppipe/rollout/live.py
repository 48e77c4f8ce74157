"""The servers of a deployment that runs, as a rollout sees and changes them.

Rules
- What a server has is what is in the folder that it polls (ppipe.serving.server_models); what dispatchers
  serve by is the last table that was handed over, or deployment.json.
- A step has been made when it shows: a loaded worker has answered a question, of an unloaded one no
  process is left, and each dispatcher has said that it serves by the table and that nothing older is under
  way.
- A worker whose folder is there need not be loaded yet: a rollout may have been killed while it waited. So
  those that dispatchers do not use are asked, and one that does not answer is still to be loaded. Nor need
  dispatchers have taken the last table: nothing is unloaded before they have.
- Nothing is loaded on a server before what was removed from it is gone: it holds memory until then.
- A server that does not answer is not waited for: its folder alone is changed, for when it is back. Nor is an
  entry of several: its dispatchers begin with the last table when they start again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from planner import serial
from planner.cluster import Cluster
from planner.manifest import DeploymentManifest
from planner.revision import HandOver, ack_name, hand_over, read_acks, read_hand_over, run_of
from planner.rollout.fleet import FleetRevision, Loadable, Situation, Tables, named_in
from ppipe.rollout.revisions import chain_names, rooms_of, tables_of, with_tables
from ppipe.rollout.run import StepFailed
from ppipe.serving.polled_folder import NoSuchModel
from ppipe.serving.probe import ModelProber, ProbeVerdict
from ppipe.serving.server_models import ServerModels

LOAD_LIMIT_S = 180.0
UNLOAD_LIMIT_S = 60.0
HAND_OVER_GRACE_S = 15.0
"""Beyond the longest time that a frame may take."""
ANSWER_S = 1.0
SILENT_S = 3.0
"""An entry that has answered nothing for so long is not waited for; one late answer is no silence."""
NOTICE_S = 2.5
"""Within that a server has begun to load what was put there."""
_TICK_S = 0.05


class FleetDown(Exception):
    """A deployment that is not running, or not from here; nothing was done."""


class LiveFleet:
    """See the module. servers: their models, by name. tables: where dispatchers look; answers: where
    they say what they serve. others: revisions
    beside these two whose workers may be loaded. logs_from: where what each server says was when workers were
    put there early (begin_load). A context.
    """

    def __init__(
        self,
        servers: Mapping[str, ServerModels],
        tables: Path,
        answers: Path,
        cluster: Cluster,
        origin: tuple[FleetRevision, DeploymentManifest],
        target: tuple[FleetRevision, DeploymentManifest],
        others: Sequence[tuple[FleetRevision, DeploymentManifest]] = (),
        logs_from: Mapping[str, int] | None = None,
    ) -> None:
        self._servers = servers
        self._folder = tables
        self._answers_at = answers
        self._cluster = cluster
        self._manifests = {manifest.epoch: manifest for _, manifest in (origin, target)}
        self._older = origin[1]
        self._before = origin[0].workers.keys()
        self._logs_from = dict(logs_from or {})
        self._others = [manifest for _, manifest in others]
        every = [revision for revision, _ in (origin, target, *others)]
        self._workers = {name: worker for one in every for name, worker in one.workers.items()}
        self._known = tuple(revision.tables for revision in every)
        self._probers: dict[str, ModelProber] = {}
        self._missed_s: dict[str, float] = {}
        self._given_up: set[str] = set()
        self.dropped: set[str] = set()
        """Entries of several that were not waited for."""

    def __enter__(self) -> LiveFleet:
        return self

    def __exit__(self, *_: object) -> None:
        for prober in self._probers.values():
            prober.close()

    def require_entry(self) -> tuple[str, ...]:
        """The entries that do not answer, which take the plan when they are back. Raises FleetDown unless one
        answers, and the dispatchers of all that do look for tables here.
        """
        silent = tuple(entry.name for entry in self._older.entries if not self._answers(entry.name))
        self._missed_s = dict.fromkeys(silent, time.monotonic())
        if len(silent) == len(self._older.entries):
            addresses = ", ".join(entry.grpc_address for entry in self._older.entries)
            raise FleetDown(
                f"the entry server does not answer at {addresses}; a rollout is of a deployment "
                "that runs: start it with ppipe serve"
            )
        there = self._dispatchers(silent)
        missing = there - read_acks(self._answers_at, there).keys()
        if missing:
            raise FleetDown(
                f"{self._answers_at}: nothing there from the dispatchers of {', '.join(sorted(missing))}; "
                "run this where ppipe serve runs, with the same --work, or both with the same --fleet"
            )
        return silent

    def situation(self) -> Situation:
        """As it is now. Raises FleetDown."""
        there = {name for server in self._servers.values() for name in server.models()}
        loaded = frozenset(there & self._workers.keys())
        table = _last_table(self._folder, self._answers_at)
        tables = _tables(table, self._older)
        out = frozenset(
            server.name
            for server in self._cluster.servers
            if server.name not in self._servers or not self._answers(server.name)
        )
        return Situation(
            tables=tables,
            loaded=loaded,
            workers=self._workers,
            rooms=rooms_of(self._cluster),
            out=out,
            settled=table is None or not self._without(table.number, silent_s=0.0, over=False),
            known=self._known,
            loading=frozenset(name for name in loaded - set(named_in(tables)) if self._is_loading(name, out)),
        )

    def _is_loading(self, name: str, out: Collection[str]) -> bool:
        """Whether a worker that no dispatcher uses does not answer, where its server does."""
        server = self._workers[name].gpu.server
        if server in out:
            return False
        return self._prober(server).ask(name, ANSWER_S).verdict is not ProbeVerdict.ANSWERS

    def load(self, workers: Sequence[Loadable]) -> None:
        """See RunningFleet. What is there already is loading since a rollout was killed, or was put there
        early: to put it there anew would have it loaded twice.
        """
        self._wait_until_gone(self._removed({worker.gpu.server for worker in workers}))
        there = {w.name for w in workers if w.name in self._servers[w.gpu.server].models()}
        starts = self.begin_load([worker for worker in workers if worker.name not in there])
        for worker in workers:
            if worker.name in there:
                self._wait_for_old(worker, self._see_begun(worker))
            else:
                self._wait_for(worker, starts[worker.gpu.server])

    def _see_begun(self, worker: Loadable) -> int:
        """Where its server's log was before the load. What no process is begun for has failed to load: it is
        put there anew.
        """
        models = self._servers[worker.gpu.server]
        until_s = time.monotonic() + NOTICE_S
        while worker.name not in models.processes():
            if time.monotonic() > until_s:
                return self.begin_load([worker])[worker.gpu.server]
            time.sleep(_TICK_S)
        return self._logs_from.get(worker.gpu.server, models.mark())

    def _wait_for_old(self, worker: Loadable, log_from: int) -> None:
        """For a worker that was put there before this rollout. One that the origin has may fail to answer:
        the way back is not kept from going on by it.
        """
        if worker.name in self._given_up:
            return
        try:
            self._wait_for(worker, log_from)
        except StepFailed:
            if worker.name not in self._before:
                raise
            self._given_up.add(worker.name)

    def begin_load(self, workers: Sequence[Loadable]) -> dict[str, int]:
        """Have them loaded, and wait for nothing; where their servers' logs were. Raises StepFailed."""
        starts = {}
        for server, names in _by_server(workers).items():
            starts[server] = self._servers[server].mark()
            try:
                self._servers[server].add(names)
            except (NoSuchModel, ValueError, OSError) as error:
                raise StepFailed(f"server {server!r}: not put there: {', '.join(names)}: {error}") from error
        return starts

    def begin_unload(self, workers: Sequence[Loadable]) -> None:
        """Have workers that no dispatcher uses unloaded, and wait for nothing."""
        for server, names in _by_server(workers).items():
            self._servers[server].remove(names)

    def _wait_for(self, worker: Loadable, log_from: int) -> None:
        self._wait(
            lambda: self._has_answered(worker, log_from),
            LOAD_LIMIT_S,
            lambda: f"server {worker.gpu.server!r}: {worker.name} does not answer",
        )

    def unload(self, workers: Sequence[Loadable]) -> None:
        """See RunningFleet."""
        self._wait_until_settled()
        self.begin_unload(workers)
        self._wait_until_gone({(worker.gpu.server, worker.name) for worker in workers})

    def _removed(self, servers: Iterable[str]) -> set[tuple[str, str]]:
        """Models of these servers, by server, that they are to have no more and whose processes are still
        there: a rollout may have been killed while it waited for that.
        """
        return {
            (server, name)
            for server in servers
            for name in self._servers[server].processes() - self._servers[server].models()
        }

    def _wait_until_gone(self, models: Collection[tuple[str, str]]) -> None:
        """Until the memory of these workers is free. What a host that is lost said last of its processes it
        says for ever: a server that does not answer is not waited for.
        """
        wanted: dict[str, set[str]] = {}
        for server, name in models:
            wanted.setdefault(server, set()).add(name)

        def left() -> list[str]:
            there = {server: self._servers[server].processes() & names for server, names in wanted.items()}
            return sorted(
                name for server, names in there.items() if names and self._answers(server) for name in names
            )

        self._wait(lambda: not left(), UNLOAD_LIMIT_S, lambda: f"still there: {', '.join(left())}")

    def hand_over(self, tables: Tables, revision: int) -> None:
        """See RunningFleet."""
        self._wait_for_unused(tables)
        older = [self._other_than(revision), *self._others]
        manifest = with_tables(self._manifests[revision], tables, *older)
        run = run_of(self._answers_at)
        before = read_hand_over(self._folder, run)
        acks = read_acks(self._answers_at, self._dispatchers())
        number = 1 + max(
            [0 if before is None else before.number, *(max(ack.number, ack.refused) for ack in acks.values())]
        )
        hand_over(self._folder, HandOver(number, manifest, run))
        self._wait(
            lambda: self._is_served(number),
            _hand_over_limit_s(manifest),
            lambda: f"the dispatchers of {', '.join(self._without(number))} have not taken the table",
        )
        self._remove_chains()

    def _wait_for_unused(self, tables: Tables) -> None:
        """For the workers that dispatchers do not use yet."""
        used = set(named_in(served_tables(self._folder, self._answers_at, self._older)))
        for name in sorted(set(named_in(tables)) - used):
            worker = self._workers[name]
            server = worker.gpu.server
            if name in self._servers[server].models() and self._answers(server):
                self._wait_for_old(worker, self._logs_from.get(server, self._servers[server].mark()))

    def _wait_until_settled(self) -> None:
        """Until dispatchers owe nothing to workers of tables before the last one: a rollout may have been
        killed while it waited for that. Who refuses the last one is not waited for.
        """
        table = read_hand_over(self._folder, run_of(self._answers_at))
        if table is None:
            return
        number, limit_s = table.number, _hand_over_limit_s(table.manifest)
        self._wait(
            lambda: not self._unsettled(number),
            limit_s,
            lambda: f"the dispatchers of {', '.join(self._unsettled(number))} still use an older table",
        )

    def _unsettled(self, number: int) -> list[str]:
        acks = read_acks(self._answers_at, self._dispatchers())
        refuse = {name for name, ack in acks.items() if ack.refused == number}
        return [name for name in self._without(number) if name not in refuse]

    def _remove_chains(self) -> None:
        """No table of a rollout uses an ensemble; one whose stages go would keep its server from starting."""
        names = chain_names(*self._manifests.values())
        for server in self._servers.values():
            if chains := server.models() & names:
                server.remove(chains)

    def _other_than(self, revision: int) -> DeploymentManifest:
        return next((m for number, m in self._manifests.items() if number != revision), self._older)

    def _is_served(self, number: int) -> bool:
        acks = read_acks(self._answers_at, self._dispatchers(self._silent()))
        for name, ack in sorted(acks.items()):
            if ack.refused == number:
                raise StepFailed(f"dispatcher {name!r} refuses the table: {ack.reason}")
        return not self._without(number)

    def _without(self, number: int, silent_s: float = SILENT_S, over: bool = True) -> list[str]:
        """Dispatchers that have not taken this table. over: or owe something to workers of older ones."""
        acks = read_acks(self._answers_at, self._dispatchers())
        taken = {
            name for name, ack in acks.items() if (ack.is_over(number) if over else ack.number == number)
        }
        late = self._dispatchers() - taken
        return sorted(late & self._dispatchers(self._silent(silent_s))) if late else []

    def _silent(self, for_s: float = SILENT_S) -> Collection[str]:
        """Of several entries those that do not answer and have not for so long."""
        entries = self._older.entries
        if len(entries) == 1:
            return ()
        for entry in entries:
            asked_s = time.monotonic()
            if self._answers(entry.name):
                self._missed_s.pop(entry.name, None)
            else:
                self._missed_s.setdefault(entry.name, asked_s)
        now_s = time.monotonic()
        silent = {name for name, since_s in self._missed_s.items() if now_s - since_s >= for_s}
        if for_s > 0:
            self.dropped |= silent
        return silent

    def _dispatchers(self, silent: Collection[str] = ()) -> set[str]:
        """What those call themselves that take tables and are not at silent entries; cascades too, which have
        their parts of the SLO from tables.
        """
        return {
            ack_name(self._older, entry.name, door)
            for entry in self._older.entries
            if entry.name not in silent
            for door in self._older.doors
        }

    def _has_answered(self, worker: Loadable, log_from: int) -> bool:
        probe = self._prober(worker.gpu.server).ask(worker.name, ANSWER_S)
        if probe.verdict is ProbeVerdict.ANSWERS:
            return True
        if probe.verdict in (ProbeVerdict.REFUSED, ProbeVerdict.FAILS, ProbeVerdict.STUB_DEAD):
            raise StepFailed(f"server {worker.gpu.server!r}: {worker.name}: {probe.detail}")
        said = [line for line in self._servers[worker.gpu.server].said(log_from) if worker.name in line]
        if said:
            raise StepFailed(f"server {worker.gpu.server!r} does not load {worker.name}: {said[0]}")
        if not self._answers(worker.gpu.server):
            raise StepFailed(f"server {worker.gpu.server!r} does not answer any more")
        return False

    def _answers(self, server: str) -> bool:
        return self._prober(server).ask_live(ANSWER_S).verdict is ProbeVerdict.ANSWERS

    def _prober(self, server: str) -> ModelProber:
        if server not in self._probers:
            address = self._older.server(server)
            self._probers[server] = ModelProber(address.grpc_address, tls=self._older.tls_of(address))
        return self._probers[server]

    @staticmethod
    def _wait(done: Callable[[], bool], limit_s: float, what: Callable[[], str]) -> None:
        until_s = time.monotonic() + limit_s
        while not done():
            if time.monotonic() > until_s:
                raise StepFailed(f"after {limit_s:.0f} s: {what()}")
            time.sleep(_TICK_S)


def _by_server(workers: Sequence[Loadable]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for worker in workers:
        found.setdefault(worker.gpu.server, []).append(worker.name)
    return found


def _hand_over_limit_s(manifest: DeploymentManifest) -> float:
    return max(entry.longest_us for entry in manifest.models) / 1e6 + HAND_OVER_GRACE_S


def served_tables(folder: Path, answers: Path, generated: DeploymentManifest) -> Tables:
    """What dispatchers serve by, or will once they have looked. Raises FleetDown for a file that is
    damaged.
    """
    return _tables(_last_table(folder, answers), generated)


def _last_table(folder: Path, answers: Path) -> HandOver | None:
    """None: nothing was handed over in this run of the servers. Raises FleetDown."""
    try:
        return read_hand_over(folder, run_of(answers))
    except serial.FormatError as error:
        raise FleetDown(f"{folder}: what is served is not known: {error}") from error


def _tables(table: HandOver | None, generated: DeploymentManifest) -> Tables:
    return tables_of(generated if table is None else table.manifest)
