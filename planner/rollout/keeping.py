"""Places for a new plan's workers, as many as can be where a worker of the same blocks is loaded.

A plan says which workers share a GPU, not which GPU: all GPUs of servers that are planned alike
(planner.pools) are equally good. So groups of workers and GPUs are matched anew:

    max sum_gh x_gh kept_gh   with   sum_h x_gh = groups of kind g,   sum_g x_gh <= GPUs of kind h

where groups of one kind hold the same workers, GPUs of one kind have the same loaded, and kept_gh counts what
both have. This is a transportation problem, so the linear program's solution is whole.

Rule: of GPUs of one kind those are taken whose servers have least of the group's workers yet, so that pools
still spread over servers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from planner.cluster import Cluster, Server
from planner.link_shares import link_shares
from planner.placement import PlacedWorker, Placement
from planner.plan import Plan
from planner.pools import plan_by_pool
from planner.rollout.fleet import Gpu
from planner.solver import Limits, LinearProgram


class Runs(NamedTuple):
    """What a worker runs, and on how much of its GPU: workers of equal ones can stand in for each other."""

    model: str
    start: int
    end: int
    slices_per_gpu: int


Held = Mapping[Gpu, Mapping[int, Runs]]
"""What each GPU has loaded, by slice."""
_Group = tuple[Runs, ...]
"""What the workers of one GPU run, sorted."""


def held_by(plan: Plan) -> dict[Gpu, dict[int, Runs]]:
    """What is loaded where a placed plan is served. Raises ValueError for a plan without placement."""
    held: dict[Gpu, dict[int, Runs]] = defaultdict(dict)
    for worker in _placement(plan).workers:
        held[Gpu(worker.server, worker.gpu_id)][worker.slice_index] = runs_of(plan, worker)
    return dict(held)


def runs_of(plan: Plan, worker: PlacedWorker) -> Runs:
    """What a placed worker runs."""
    stage = plan.model(worker.model).pipelines[worker.pipeline].stages[worker.stage]
    return Runs(worker.model, stage.blocks.start, stage.blocks.end, stage.slices_per_gpu)


def keep_places(plan: Plan, cluster: Cluster, held: Held) -> Plan:
    """The placed plan with its groups of workers on those GPUs that keep most of what is loaded."""
    placement = _placement(plan)
    groups: dict[Gpu, list[PlacedWorker]] = defaultdict(list)
    for worker in placement.workers:
        groups[Gpu(worker.server, worker.gpu_id)].append(worker)
    by_pool, pools = plan_by_pool(plan, cluster)
    moved: list[PlacedWorker] = []
    for one in pools.gpu_classes:
        servers = pools.servers_of(one.name)
        names = {server.name for server in servers}
        mine = {gpu: workers for gpu, workers in groups.items() if gpu.server in names}
        target = _matched(plan, mine, servers, held)
        for gpu, workers in mine.items():
            moved += _on(plan, workers, target[gpu], held.get(target[gpu], {}))
    order = {model.model: index for index, model in enumerate(plan.models)}
    moved.sort(key=lambda w: (order[w.model], w.pipeline, w.stage, w.worker))
    return replace(plan, placement=Placement(tuple(moved), link_shares(by_pool, moved, pools)))


def kept_workers(plan: Plan, held: Held) -> int:
    """How many workers of a placed plan are loaded where it wants them."""
    return sum(
        held.get(Gpu(worker.server, worker.gpu_id), {}).get(worker.slice_index) == runs_of(plan, worker)
        for worker in _placement(plan).workers
    )


def _placement(plan: Plan) -> Placement:
    if plan.placement is None:
        raise ValueError("the plan has no placement; fill it with planner.placing.place")
    return plan.placement


def _matched(
    plan: Plan, groups: Mapping[Gpu, Sequence[PlacedWorker]], servers: Sequence[Server], held: Held
) -> dict[Gpu, Gpu]:
    """Where each group, named by the GPU that it was planned on, goes."""
    kinds: dict[_Group, list[Gpu]] = defaultdict(list)
    for gpu, workers in groups.items():
        kinds[tuple(sorted(runs_of(plan, worker) for worker in workers))].append(gpu)
    free: dict[_Group, list[Gpu]] = defaultdict(list)
    for server in servers:
        for gpu_id in range(server.gpu_count):
            gpu = Gpu(server.name, gpu_id)
            free[tuple(sorted(held.get(gpu, {}).values()))].append(gpu)
    found: dict[Gpu, Gpu] = {}
    for (kind, there), count in _transported(kinds, free).items():
        for _ in range(count):
            group = kinds[kind].pop(0)
            found[group] = _least_used(free[there], kind, found, kinds_of=groups, plan=plan)
            free[there].remove(found[group])
    return found


def _least_used(
    gpus: Sequence[Gpu],
    kind: _Group,
    found: Mapping[Gpu, Gpu],
    *,
    kinds_of: Mapping[Gpu, Sequence[PlacedWorker]],
    plan: Plan,
) -> Gpu:
    """The first GPU on a server with least of the same workers yet."""
    there = Counter(
        target.server
        for group, target in found.items()
        if any(runs_of(plan, worker) in kind for worker in kinds_of[group])
    )
    return min(gpus, key=lambda gpu: there[gpu.server])


def _transported(
    kinds: Mapping[_Group, Sequence[Gpu]], free: Mapping[_Group, Sequence[Gpu]]
) -> dict[tuple[_Group, _Group], int]:
    """How many groups of each kind go to GPUs of each kind; see the module."""
    program = LinearProgram("places", maximise=True)
    pairs = [(kind, there) for kind in kinds for there in free]
    if not pairs:
        return {}
    variables = [program.variable(f"x{index}") for index in range(len(pairs))]
    for index, (kind, gpus) in enumerate(kinds.items()):
        terms = [(x, 1.0) for x, pair in zip(variables, pairs, strict=True) if pair[0] == kind]
        program.constrain(f"all_of_{index}", terms, "==", float(len(gpus)))
    for index, (there, gpus) in enumerate(free.items()):
        terms = [(x, 1.0) for x, pair in zip(variables, pairs, strict=True) if pair[1] == there]
        program.constrain(f"room_of_{index}", terms, "<=", float(len(gpus)))
    program.optimise(
        [
            (x, float((Counter(kind) & Counter(there)).total()))
            for x, (kind, there) in zip(variables, pairs, strict=True)
        ]
    )
    solution = program.solve(Limits())
    return {pair: round(value) for pair, value in zip(pairs, solution.values, strict=True) if round(value)}


def _on(
    plan: Plan, workers: Sequence[PlacedWorker], gpu: Gpu, there: Mapping[int, Runs]
) -> list[PlacedWorker]:
    """These workers on this GPU: in the slices that hold the same, the others in other slices."""
    left = dict(there)
    slices: dict[int, int] = {}
    for index, worker in enumerate(workers):
        same = next((at for at, runs in left.items() if runs == runs_of(plan, worker)), None)
        if same is not None:
            slices[index] = same
            del left[same]
    unused = (at for at in range(len(workers) + len(there)) if at not in slices.values())
    return [
        replace(
            worker,
            server=gpu.server,
            gpu_id=gpu.gpu_id,
            slice_index=slices[index] if index in slices else next(unused),
        )
        for index, worker in enumerate(workers)
    ]
