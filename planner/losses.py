"""What a plan must survive: the loss of any one server or entry, of a spot class as a whole; what is left.

Rules
- Of several entries the loss of one takes no workers: others adopt its shards (planner.sharding). But each of
  those that are left then carries 1 / (N - 1) of all frames, and that bounds what is promised.
- What remains of a plan is the plan without the workers that were on what is lost. Nothing is planned anew.
- A loss is of servers by name. While a plan is sought, workers have no servers yet: then the loss of one of
  a class's K servers counts as 1 / K of each of its pools (KeptShares). No placement beats that in the mean
  over the K losses, so a bound with it is one of what any plan can promise. In whole GPUs, rounded up per
  pool, it is what placing keeps to by dealing a pool's GPUs over all servers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.entry import EntryRow, entry_rows
from planner.placement import PlacedWorker, Placement
from planner.plan import ModelPlan, Pipeline, Plan
from planner.problem import Problem
from planner.rates import ends_of, worker_rates_rps


@dataclass(frozen=True)
class Loss:
    """Servers that are lost together: one, or all of a spot class. entry: the entry that is lost instead."""

    name: str
    servers: tuple[str, ...]
    entry: str = ""


@dataclass(frozen=True)
class KeptShares:
    """The share of a class's workers that remains, by the class's place in the cluster; others keep all.

    whole: what is lost of each pool is whole GPUs, rounded up.
    """

    name: str
    kept: Mapping[int, float]
    whole: bool = False

    def of(self, gpu: int) -> float:
        """The share of this class."""
        return self.kept.get(gpu, 1.0)


def must_survive(problem: Problem) -> bool:
    """Whether the plan must promise what it serves after a loss."""
    return bool(problem.options.survive_servers) or any(one.spot for one in problem.cluster.gpu_classes)


def losses_of(problem: Problem) -> tuple[Loss, ...]:
    """All that the plan must survive, one at a time."""
    cluster = problem.cluster
    vanishing = {one.name: one.spot for one in cluster.gpu_classes if one.spot}
    spot = [
        Loss(
            f"spot class {name}",
            tuple(server.name for server in cluster.servers if vanishing.get(server.gpu) == name),
        )
        for name in dict.fromkeys(vanishing.values())
    ]
    spot = [loss for loss in spot if loss.servers]
    single = [
        Loss(server.name, (server.name,))
        for server in cluster.servers
        if problem.options.survive_servers and server.gpu not in vanishing
    ]
    return (*spot, *single, *_entry_losses(problem))


def _entry_losses(problem: Problem) -> tuple[Loss, ...]:
    entries = problem.cluster.entries
    if len(entries) == 1 or not problem.options.survive_servers:
        return ()
    return tuple(Loss(f"entry {entry.name}", (), entry.name) for entry in entries)


def rows_after(problem: Problem, loss: Loss) -> tuple[EntryRow, ...]:
    """What the entries that are left carry, named after the loss; none where no entry is lost."""
    left = [entry for entry in problem.cluster.entries if entry.name != loss.entry]
    if not loss.entry or not left:
        return ()
    cluster = replace(problem.cluster, entry=left[0], more_entries=tuple(left[1:]))
    rows = entry_rows(replace(problem, cluster=cluster))
    return tuple(replace(row, name=f"without {loss.entry}: {row.server} {row.name}".strip()) for row in rows)


def kept_shares(problem: Problem, whole: bool = False) -> tuple[KeptShares, ...]:
    """The same while workers have no servers: one for each class. whole: in whole GPUs, and of servers that
    are not alike the largest, because smaller ones are full before a pool has gone round all of them.
    """
    spot: dict[str, dict[int, float]] = {}
    found = []
    for index, one in enumerate(problem.cluster.gpu_classes):
        servers = problem.cluster.servers_of(one.name)
        count = len(servers)
        if count and one.spot:
            spot.setdefault(one.spot, {})[index] = 0.0
        elif count and problem.options.survive_servers:
            lost = 1 / count
            if whole:
                lost = max(server.gpu_count for server in servers) / problem.cluster.gpu_count(one.name)
            found.append(KeptShares(f"a server of {one.name}", {index: 1 - lost}, whole))
    return (*found, *(KeptShares(f"spot class {name}", kept) for name, kept in spot.items()))


def after(plan: Plan, loss: Loss, problem: Problem) -> Plan:
    """The plan that remains, its workers numbered anew. A model that nothing remains of has no pipelines.

    Raises ValueError for a plan without placement.
    """
    if plan.placement is None:
        raise ValueError("the plan has no placement, so nobody knows what is lost with a server")
    kept = [worker for worker in plan.placement.workers if worker.server not in loss.servers]
    models, workers = [], []
    for model in plan.models:
        mine = [worker for worker in kept if worker.model == model.model]
        remains, placed = _model_after(model, mine, problem)
        models.append(remains)
        workers += placed
    shares = tuple(share for share in plan.placement.link_shares if share.server not in loss.servers)
    return replace(plan, models=tuple(models), placement=Placement(tuple(workers), shares))


def thinned(plan: Plan, shares: KeptShares, problem: Problem) -> Plan:
    """The plan at the rates that it would have if every pool lost just its share. Only rates change."""
    gpus = [gpu_class.name for gpu_class in problem.cluster.gpu_classes]
    models = []
    for model in plan.models:
        pipelines = []
        for pipeline in model.pipelines:
            left = [stage.workers * shares.of(gpus.index(stage.gpu)) for stage in pipeline.stages]
            slower = _pipeline_after(model, pipeline, left, problem)
            pipelines.append(replace(pipeline, throughput_rps=slower.throughput_rps))
        total = sum(pipeline.throughput_rps for pipeline in pipelines)
        models.append(replace(model, pipelines=tuple(pipelines), throughput_rps=total))
    return replace(plan, models=tuple(models))


def _model_after(
    model: ModelPlan, kept: list[PlacedWorker], problem: Problem
) -> tuple[ModelPlan, list[PlacedWorker]]:
    counts = Counter((worker.pipeline, worker.stage) for worker in kept)
    pipelines: list[Pipeline] = []
    placed: list[PlacedWorker] = []
    for number, pipeline in enumerate(model.pipelines):
        left = [counts[number, stage] for stage in range(len(pipeline.stages))]
        parts = [pipeline.stages[0].batch_size // stage.batch_size for stage in pipeline.stages]
        if any(count < least for count, least in zip(left, parts, strict=True)):
            continue
        placed += _renumbered(kept, number, len(pipelines))
        now = _pipeline_after(model, pipeline, left, problem)
        stages = zip(left, pipeline.stages, strict=True)
        pipelines.append(replace(now, stages=tuple(replace(stage, workers=count) for count, stage in stages)))
    total = sum(pipeline.throughput_rps for pipeline in pipelines)
    return replace(model, pipelines=tuple(pipelines), throughput_rps=total), placed


def _pipeline_after(
    model: ModelPlan, pipeline: Pipeline, left: Sequence[float], problem: Problem
) -> Pipeline:
    """As fast as its slowest pool now is; no faster than before, for the entry may bound that."""
    demand = next(demand for demand in problem.demands if demand.model == model.model)
    ends = ends_of(problem.profile.model(model.model), demand, problem.options)
    rates = worker_rates_rps(problem.cluster, pipeline.stages, pipeline.transfer_us, ends)
    rate = min(count * each for count, each in zip(left, rates, strict=True))
    return replace(pipeline, throughput_rps=min(pipeline.throughput_rps, rate))


def _renumbered(kept: list[PlacedWorker], before: int, now: int) -> Iterator[PlacedWorker]:
    seen: Counter[int] = Counter()
    for worker in kept:
        if worker.pipeline == before:
            yield replace(worker, pipeline=now, worker=seen[worker.stage])
            seen[worker.stage] += 1
