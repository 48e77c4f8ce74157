"""Faults of the network between two entries on hosts of their own: emulated workers on two hosts, etcd on
another, callers on one more, each host a network namespace (helpers.machines.hosts).

Each entry's shard has workers on both stage hosts. Callers keep to one entry as long as it answers, and go to
the other one for a moment where it does not, as behind a load balancer.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.helpers.entries.deployed import ENTRIES, wait_until
from benchmarks.helpers.entries.kills import Callers
from benchmarks.helpers.loads.tagged import TaggedFrame
from benchmarks.helpers.machines.etcd import Etcd, find_etcd
from benchmarks.helpers.machines.hosts import Host, delays, hosts, parted, why_not
from benchmarks.helpers.machines.links import Link
from benchmarks.helpers.machines.served_hosts import HostsServed, serve_repository
from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage, write_deployment
from planner.leases import LeasesAt
from planner.profile import TensorSpec
from planner.shards import Shard
from ppipe.serving.live_metrics import Look, read
from python_backend.simulator.arrivals import Poisson

STAGES = ("a", "b")
STORE = "store"
LOST_ENTRY = "an entry cut off"
LINK = Link(1_000)
FAR_LINK = Link(1_000, delay_ms=2.0, jitter_ms=0.5, loss_percent=0.1)
SLO_US = 400_000
LOAD = 0.4
ANSWERED_AFTER_S = 1.0
"""A frame may end so long after its deadline."""
SETTLED_S = 1.0
"""A host that is silent is left out after so long."""
BACK_S, BACK_SHARE = 3.0, 0.99
_LATENCY_US = (20_000, 32_000, 44_000, 56_000)
_FIRST_PORT = 25_000
AFTER_S, _WINDOW_S, _STEP_S = 4.0, 1.0, 0.1
_LONGEST_LOAD_S = 600.0
_RATE_RPS = 4 * 2 / (_LATENCY_US[1] / 1e6)
SHARDS = (
    Shard(ENTRIES, _RATE_RPS / 2, (((0, 2), (0, 2)),)),
    Shard(ENTRIES[::-1], _RATE_RPS / 2, (((1, 3), (1, 3)),)),
)


@dataclass
class EntryHosts:
    """What runs: hosts by name, and what they serve."""

    made: Mapping[str, Host]
    served: HostsServed
    etcd: Etcd

    def owned(self, entry: str) -> set[str]:
        """The shards that an entry owns, as it says."""
        page = self.page(entry)
        return set() if page is None else set(page.values("ppipe_shard_term", "shard"))

    def page(self, entry: str) -> Look | None:
        """Of the entry's dispatcher; None where it does not answer."""
        seen = self.served.manifest.seen_from(entry)
        try:
            return read(seen, seen.models[0])
        except OSError:
            return None

    def wait_until_each_owns_its_own(self) -> None:
        """Raises RuntimeError."""
        wait_until(lambda: all(self.owned(name) == {str(index)} for index, name in enumerate(ENTRIES)))


@dataclass(frozen=True)
class Fault:
    """cut: lasts as long as its context. lost_entry: whose callers are on the part that is cut off. loses:
    whether frames on their way to a stage host are.
    """

    name: str
    seconds: float
    cut: Callable[[EntryHosts], AbstractContextManager[object]]
    lost_entry: int | None = None
    loses: bool = False


@contextlib.contextmanager
def entry_hosts(root: Path, link: Link, ipv6: bool = False) -> Iterator[EntryHosts]:
    """Serving, each entry its own shard. Raises NoHosts, HostsDoNotServe."""
    links = dict.fromkeys((*ENTRIES, *STAGES, STORE), link)
    root.mkdir(parents=True, exist_ok=True)
    with hosts(links, clocks_apart=True, ipv6=ipv6, among=True) as made, Etcd(root, made[STORE]) as etcd:
        manifest = write_deployment(
            root / "repository",
            [_model()],
            _FIRST_PORT,
            "apart",
            hosts={name: host.address for name, host in made.items()},
            shards={"net": SHARDS},
            leases=LeasesAt("etcd", (etcd.url,)),
        )
        with serve_repository(root / "repository", root / "logs", manifest, made) as served:
            running = EntryHosts(made, served, etcd)
            running.wait_until_each_owns_its_own()
            yield running


def _model() -> EmulatedModel:
    servers = tuple(stage for stage in STAGES for _ in range(2))
    cut = (TensorSpec("cut", "FP32", (10_000,)),)
    stages = (
        EmulatedStage(_LATENCY_US, servers, cut),
        EmulatedStage(_LATENCY_US, servers, (TensorSpec("scores", "FP32", (16,)),)),
    )
    return EmulatedModel(
        name="net",
        slo_us=SLO_US,
        planned_rps=_RATE_RPS,
        input=TensorSpec("frame", "FP32", (5_000,)),
        pipelines=(EmulatedPipeline(batch_size=2, stages=stages, transfer_us=((2_000,) * 4,)),),
    )


@contextlib.contextmanager
def _killed(running: EntryHosts) -> Iterator[None]:
    running.etcd.send(signal.SIGKILL)
    try:
        yield
    finally:
        running.etcd.start()


@contextlib.contextmanager
def _stopped(running: EntryHosts) -> Iterator[None]:
    running.etcd.send(signal.SIGSTOP)
    try:
        yield
    finally:
        running.etcd.send(signal.SIGCONT)


def faults(*lasts_s: float) -> list[Fault]:
    """All, once for each of these times."""

    def one_way(running: EntryHosts) -> AbstractContextManager[object]:
        return running.made[ENTRIES[0]].unheard_by(running.made[ENTRIES[1]])

    def both_ways(running: EntryHosts) -> AbstractContextManager[object]:
        return parted(running.made[ENTRIES[0]], running.made[ENTRIES[1]])

    def cut_off(name: str) -> Callable[[EntryHosts], AbstractContextManager[object]]:
        return lambda running: running.made[name].cut_off()

    def mute_stage(running: EntryHosts) -> AbstractContextManager[object]:
        return running.made[STAGES[0]].unheard_by(*(running.made[entry] for entry in ENTRIES))

    return [
        fault
        for seconds in lasts_s
        for fault in (
            Fault("entries, one way", seconds, one_way),
            Fault("entries, both ways", seconds, both_ways),
            Fault("etcd cut off", seconds, cut_off(STORE)),
            Fault("etcd killed", seconds, _killed),
            Fault("etcd stopped", seconds, _stopped),
            Fault(LOST_ENTRY, seconds, cut_off(ENTRIES[1]), lost_entry=1),
            Fault("a stage host cut off", seconds, cut_off(STAGES[0]), loses=True),
            Fault("a stage host that is not heard", seconds, mute_stage, loses=True),
        )
    ]


def strike(running: EntryHosts, fault: Fault, seed: int, after_s: float = AFTER_S) -> dict[str, Any]:
    """Load, cut, wait until it is over, load on; what came of it."""
    callers = Callers(running.served.manifest)
    arrivals = list(Poisson(LOAD * _RATE_RPS).times_us(_LONGEST_LOAD_S, seed, "net"))
    thread = threading.Thread(target=callers.run, args=(arrivals,))
    began_s = time.monotonic() + 0.05
    thread.start()
    try:
        time.sleep(_WINDOW_S)
        before = {entry: sorted(running.owned(entry)) for entry in ENTRIES}
        cut_s = time.monotonic() - began_s
        with fault.cut(running):
            time.sleep(fault.seconds)
            meanwhile = {entry: sorted(running.owned(entry)) for entry in ENTRIES}
        back_s = time.monotonic() - began_s
        time.sleep(after_s)
    finally:
        callers.stop()
        thread.join()
        callers.close()
    return figures(fault, callers.frames, cut_s, back_s) | {"kept": meanwhile == before}


def run_faults(seed: int, *lasts_s: float, far: bool = False) -> dict[str, Any]:
    """All faults, one after the other; {} where this machine cannot make hosts or has no etcd. far: over
    FAR_LINK; {} where packets cannot be delayed.
    """
    if why_not() or find_etcd() is None or (far and not delays()):
        return {}
    with (
        tempfile.TemporaryDirectory(prefix="ppipe-apart-") as folder,
        entry_hosts(Path(folder), FAR_LINK if far else LINK, ipv6=True) as running,
    ):
        found = []
        for number, fault in enumerate(faults(*lasts_s)):
            running.wait_until_each_owns_its_own()
            found.append(strike(running, fault, seed + number))
    return together(found, "far" if far else "apart")


def together(found: Sequence[Mapping[str, Any]], prefix: str = "apart") -> dict[str, Any]:
    """Keys begin with the prefix. kept: of the faults that cut no entry off, those in which each entry kept
    what it had.
    """
    figures = {
        "faults": len(found),
        "attained_min": min(one["attained"] for one in found),
        "not_ended": sum(one["not_ended"] for one in found),
        "double": sum(one["double"] for one in found),
        "wrong": sum(one["wrong"] for one in found),
        "back_s_max": max(one["back_s"] for one in found),
        "kept": all(one["kept"] for one in found if one["fault"] != LOST_ENTRY),
    }
    return {f"{prefix}_{name}": value for name, value in figures.items()} | {"by_fault": list(found)}


def figures(fault: Fault, frames: Sequence[TaggedFrame], cut_s: float, back_s: float) -> dict[str, Any]:
    """attained: in time of the frames that were sent meanwhile, and were not on the part that was cut off:
    callers of an entry that was, and, where a stage host was, frames of the first SETTLED_S. not_ended: of
    these, without an answer ANSWERED_AFTER_S after the deadline. back_s: from the network's return until
    BACK_SHARE is in time, and stays so.
    """
    slo_s = SLO_US / 1e6
    from_s = cut_s + (SETTLED_S if fault.loses else 0.0)
    kept = [
        frame
        for number, frame in enumerate(frames)
        if from_s <= frame.sent_s < back_s
        and (fault.lost_entry is None or number % len(ENTRIES) != fault.lost_entry)
    ]
    late = [
        frame
        for frame in kept
        if frame.ended_s is None or frame.ended_s - frame.sent_s > slo_s + ANSWERED_AFTER_S
    ]
    return {
        "fault": fault.name,
        "seconds": fault.seconds,
        "frames": len(kept),
        "attained": round(sum(frame.in_time(slo_s) for frame in kept) / max(1, len(kept)), 4),
        "not_ended": len(late),
        "unanswered": sum(frame.answers == 0 for frame in frames),
        "double": sum(frame.answers > 1 for frame in frames),
        "wrong": sum(frame.wrong for frame in frames),
        "back_s": round(_back_s(frames, back_s), 2),
    }


def _back_s(frames: Sequence[TaggedFrame], back_s: float) -> float:
    """In steps of _STEP_S, by windows of _WINDOW_S."""
    last_s = max((frame.sent_s for frame in frames), default=back_s)
    recovered_s = at_s = back_s
    while at_s + _WINDOW_S <= last_s:
        sent = [frame for frame in frames if at_s <= frame.sent_s < at_s + _WINDOW_S]
        at_s += _STEP_S
        if sent and sum(frame.in_time(SLO_US / 1e6) for frame in sent) < BACK_SHARE * len(sent):
            recovered_s = at_s
    return recovered_s - back_s
