"""The plan of the comparison without PPipe: which GPU runs which unsplit model, and its largest batch.

What a careful operator would set up by hand:
- A GPU is used where one frame takes no longer than the SLO. With several models, the next GPU goes to the
  one that has the least throughput for its weight and can use it.
- Largest batch: the largest profiled one of which two fit into the SLO, since a frame may wait for a whole
  batch before its own starts; 1 if none does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from model_repo_generator.checking.fit import PlanFault
from planner.cluster import Cluster
from planner.deployment import Deployment
from planner.placement import PlacedWorker, Placement
from planner.plan import BlockRange, ModelPlan, Pipeline, Plan, Stage
from planner.problem import Demand, weight_of
from planner.profile import ModelProfile, Profile
from planner.rates import stage_latency_us


@dataclass(frozen=True)
class PlainBatch:
    """How a class runs a whole model. latency_us: of a batch of `size`."""

    size: int
    latency_us: float

    @property
    def rate_rps(self) -> float:
        """Frames/s of one GPU that is never idle."""
        return self.size / self.latency_us * 1e6


def plain_batch(profile: ModelProfile, gpu: str, slo_us: int) -> PlainBatch | None:
    """The largest batch to allow on a whole GPU of a class; None where it misses the SLO or is unprofiled."""
    table = profile.table(gpu, 1)
    if table is None:
        return None
    batches = [
        PlainBatch(size, stage_latency_us(profile, 0, profile.block_count, gpu, 1, size))
        for size in table.batch_sizes
    ]
    fitting = [batch for batch in batches if 2 * batch.latency_us <= slo_us]
    if fitting:
        return fitting[-1]
    return batches[0] if batches[0].latency_us <= slo_us else None


def plain_plan(deployment: Deployment, profile: Profile) -> Plan:
    """One one-stage pipeline per model and class, placed. Raises PlanFault where no class serves a model."""
    cluster = deployment.to_cluster()
    seats = _share_gpus(cluster, profile, deployment.to_demands())
    models = []
    placed = []
    for demand in deployment.to_demands():
        mine = [seat for seat in seats if seat.model == demand.model]
        if not mine:
            raise PlanFault(_no_class(demand, profile.model(demand.model), cluster))
        pipelines = list(_pipelines(demand, profile.model(demand.model), cluster, mine))
        placed += [worker for _, workers in pipelines for worker in workers]
        models.append(
            ModelPlan(
                model=demand.model,
                slo_us=demand.slo_us,
                slo_margin=0.0,
                pipelines=tuple(pipeline for pipeline, _ in pipelines),
                throughput_rps=sum(pipeline.throughput_rps for pipeline, _ in pipelines),
            )
        )
    total = sum(model.throughput_rps for model in models)
    return Plan(
        planner="plain",
        objective=total,
        upper_bound=total,
        gap=0.0,
        solver="none",
        models=tuple(models),
        placement=Placement(workers=tuple(placed), link_shares=()),
    )


@dataclass(frozen=True)
class _Seat:
    model: str
    gpu: str
    server: str
    gpu_id: int


def _share_gpus(cluster: Cluster, profile: Profile, demands: tuple[Demand, ...]) -> list[_Seat]:
    seats = []
    rates = {demand.model: 0.0 for demand in demands}
    for server in cluster.servers:
        able = [
            (demand, batch)
            for demand in demands
            if (batch := plain_batch(profile.model(demand.model), server.gpu, demand.slo_us)) is not None
        ]
        for gpu_id in range(server.gpu_count if able else 0):
            demand, batch = min(able, key=lambda each: rates[each[0].model] / weight_of(each[0]))
            rates[demand.model] += batch.rate_rps
            seats.append(_Seat(model=demand.model, gpu=server.gpu, server=server.name, gpu_id=gpu_id))
    return seats


def _no_class(demand: Demand, profile: ModelProfile, cluster: Cluster) -> str:
    latencies = {
        gpu_class.name: stage_latency_us(
            profile, 0, profile.block_count, gpu_class.name, 1, table.batch_sizes[0]
        )
        for gpu_class in cluster.gpu_classes
        if (table := profile.table(gpu_class.name, 1)) is not None
    }
    best = min(latencies, key=lambda gpu: latencies[gpu], default="none")
    fastest = f"{latencies[best] / 1000:.1f} ms on {best!r}" if latencies else "not profiled"
    return (
        f"model {demand.model!r}: no GPU is left for it that runs it whole within its SLO of "
        f"{demand.slo_us / 1000:g} ms; the fastest class: {fastest}"
    )


def _pipelines(
    demand: Demand, profile: ModelProfile, cluster: Cluster, seats: list[_Seat]
) -> Iterator[tuple[Pipeline, tuple[PlacedWorker, ...]]]:
    classes = [each.name for each in cluster.gpu_classes if any(seat.gpu == each.name for seat in seats)]
    for index, gpu in enumerate(classes):
        mine = [seat for seat in seats if seat.gpu == gpu]
        batch = plain_batch(profile, gpu, demand.slo_us)
        assert batch is not None
        stage = Stage(
            blocks=BlockRange(0, profile.block_count),
            gpu=gpu,
            slices_per_gpu=1,
            batch_size=batch.size,
            workers=len(mine),
            latency_us=batch.latency_us,
        )
        yield (
            Pipeline(stages=(stage,), transfer_us=(), throughput_rps=len(mine) * batch.rate_rps),
            tuple(
                PlacedWorker(
                    model=demand.model,
                    pipeline=index,
                    stage=0,
                    worker=worker,
                    server=seat.server,
                    gpu_id=seat.gpu_id,
                    slice_index=0,
                )
                for worker, seat in enumerate(mine)
            ),
        )
