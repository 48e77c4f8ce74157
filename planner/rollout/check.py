"""What cannot be rolled out, said before anything is touched."""

from __future__ import annotations

from collections.abc import Iterator

from planner.rollout.fleet import FleetRevision, Gpu, Situation


class RolloutFault(ValueError):
    """A rollout that cannot be; the fleet serves what it served."""


def check_rollout(served: FleetRevision, wanted: FleetRevision, now: Situation) -> None:
    """Raises RolloutFault with one line for each thing that is wrong."""
    faults = [*_identity(served, wanted), *_memory(wanted, now), *_out(wanted, now)]
    if faults:
        raise RolloutFault("\n".join(faults))


def _identity(served: FleetRevision, wanted: FleetRevision) -> Iterator[str]:
    if served.deployment != wanted.deployment:
        yield (
            f"the plan is of deployment {wanted.deployment!r}, and {served.deployment!r} is served; "
            "expected a plan of the same deployment"
        )
        return
    for model in sorted(served.tables.keys() ^ wanted.tables.keys()):
        there, missing = ("served", "the plan") if model in served.tables else ("planned", "what is served")
        yield (
            f"models.{model}: {there}, and not in {missing}; a rollout changes where models run, not which: "
            "generate and serve anew"
        )
    for model in sorted(served.splits.keys() & wanted.splits.keys()):
        if served.splits[model] != wanted.splits[model]:
            yield (
                f"models.{model}: the plan's split is {wanted.splits[model]}, what is served has "
                f"{served.splits[model]}; its blocks, weights or options differ, so no worker of one could "
                "stand in for one of the other: generate and serve anew"
            )


def _memory(wanted: FleetRevision, now: Situation) -> Iterator[str]:
    known = Situation({}, frozenset(), wanted.workers, now.rooms)
    for gpu in sorted({worker.gpu for worker in wanted.workers.values()}):
        if not known.fits(gpu, wanted.workers):
            yield (
                f"server {gpu.server!r}, GPU {gpu.gpu_id}: the plan's workers need "
                f"{_gib(known.taken_bytes(gpu, wanted.workers))}, and it has {_gib(now.rooms[gpu])}: "
                f"{', '.join(_workers_on(wanted, gpu))}"
            )


def _out(wanted: FleetRevision, now: Situation) -> Iterator[str]:
    needed = {worker.gpu.server for worker in wanted.workers.values()}
    for server in sorted(needed & now.out):
        yield (
            f"server {server!r}: does not answer, and the plan has workers there; start it, or plan "
            "without it"
        )


def _workers_on(revision: FleetRevision, gpu: Gpu) -> list[str]:
    return sorted(name for name, worker in revision.workers.items() if worker.gpu == gpu)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
