"""Each model's fixed share of each server's uplink and downlink: what it needs, and an equal part of
the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.placement import LinkShare, PlacedWorker
from planner.plan import ModelPlan, Plan


def link_shares(plan: Plan, workers: Sequence[PlacedWorker]) -> tuple[LinkShare, ...]:
    """Shares in (model, server) order of first use. Needs come from planned rates at the plan's
    transfer times.
    """
    up: dict[str, dict[str, float]] = {}
    down: dict[str, dict[str, float]] = {}
    for worker in workers:
        model = plan.model(worker.model)
        for table, hop in ((up, worker.stage), (down, worker.stage - 1)):
            needs = table.setdefault(worker.server, {})
            if 0 <= hop < len(model.pipelines[worker.pipeline].transfer_us):
                needs[worker.model] = needs.get(worker.model, 0.0) + _need(model, worker, hop)
    used = dict.fromkeys((worker.model, worker.server) for worker in workers)
    return tuple(
        LinkShare(
            model=model, server=server, uplink=_share(up[server], model), downlink=_share(down[server], model)
        )
        for model, server in used
    )


def _need(model: ModelPlan, worker: PlacedWorker, hop: int) -> float:
    """Busy share of the link that one worker's part of its pipeline's rate takes."""
    pipeline = model.pipelines[worker.pipeline]
    batches_per_s = pipeline.throughput_rps / pipeline.stages[hop].batch_size
    return batches_per_s / pipeline.stages[worker.stage].workers * pipeline.transfer_us[hop] / 1e6


def _share(needs: dict[str, float], model: str) -> float:
    if model not in needs:
        return 0.0
    if len(needs) == 1:
        return 1.0
    total = sum(needs.values())
    if total >= 1:
        return needs[model] / total
    return needs[model] + (1 - total) / len(needs)
