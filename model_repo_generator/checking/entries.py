"""Do a plan's shards fit the deployment's entries? Asked before anything is written."""

from __future__ import annotations

from collections.abc import Iterator

from model_repo_generator.checking.fit import PlanFault
from planner.addresses import same_host
from planner.deployment import Deployment
from planner.plan import ModelPlan, Plan
from planner.shards import ModelShards, shard_faults


def check_entries(deployment: Deployment, plan: Plan) -> None:
    """Every model has shards where there are several entries, and a store of leases that all of these reach.

    Raises PlanFault.
    """
    names = {entry.name for entry in deployment.to_cluster().entries}
    if len(names) == 1:
        faults = ["the plan is of several entries, the deployment has one: plan again"] if plan.shards else []
    else:
        faults = [*_lease_faults(deployment), *_shard_faults(plan, names)]
    if faults:
        raise PlanFault("\n".join(faults))


def _lease_faults(deployment: Deployment) -> Iterator[str]:
    hosts = sorted({same_host(entry.host) for entry in deployment.to_cluster().entries})
    if len(hosts) > 1 and (deployment.leases is None or deployment.leases.kind == "file"):
        yield (
            f"leases: the entries are on {len(hosts)} hosts ({', '.join(hosts)}), and a file of leases is "
            "seen on one; give 'leases: {kind: etcd, endpoints: [http://10.0.0.5:2379]}', or in a Kubernetes "
            "cluster 'leases: {kind: kubernetes}'"
        )


def _shard_faults(plan: Plan, names: set[str]) -> Iterator[str]:
    shards = {each.model: each for each in plan.shards}
    for model in plan.models:
        mine = shards.get(model.model)
        if mine is None:
            yield f"the plan has no shards of {model.model!r}, and the deployment several entries: plan again"
            continue
        yield from shard_faults(mine, _pools(model))
        yield from _order_faults(mine, names)


def _order_faults(shards: ModelShards, names: set[str]) -> Iterator[str]:
    for number, shard in enumerate(shards.shards):
        if set(shard.order) != names or len(shard.order) != len(names):
            yield (
                f"{shards.model}, shard {number}: its order is {', '.join(shard.order)}; expected each entry "
                f"once ({', '.join(sorted(names))}): plan again"
            )


def _pools(model: ModelPlan) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(stage.workers for stage in pipeline.stages) for pipeline in model.pipelines)
