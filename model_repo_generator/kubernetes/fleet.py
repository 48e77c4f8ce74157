"""What is to be started: a deployment's servers, in groups of equal pods, checked against plan and file.

Rules
- deployment.json, deployment file and plan must belong together; nothing is rendered of a mixture.
- Servers of one GPU class with equally many GPUs, alike links and equal ports are one group: pods of one
  template, for nodes of one kind.
- A server that the plan leaves without work is not in deployment.json and is not started.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from model_repo_generator import naming
from model_repo_generator.kubernetes.names import BundleFault, is_label_value
from model_repo_generator.share import FLEET
from planner import serial
from planner.cluster import Cluster, Executor, Server
from planner.deployment import Deployment
from planner.manifest import DeploymentManifest, ModelEntry, ServerAddress, StageProgram
from planner.plan import Plan
from planner.pools import pools_of

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class ServerGroup:
    """Equal servers. `gpus` per server, 0 where nothing runs on GPUs; `mps`: some worker is a slice. `links`:
    the speed of theirs, where others of the class and size have another; '' where none have. most_workers:
    on one server, by any plan.
    """

    group: str
    servers: tuple[ServerAddress, ...]
    executor: Executor
    gpus: int
    mps: bool
    links: str = ""
    most_workers: int = 0

    @property
    def is_entry(self) -> bool:
        """Whether this is the group of the entry servers."""
        return self.group == naming.ENTRY_GROUP

    @property
    def size(self) -> str:
        """What options call servers of this class and size: `T4-x4` has four GPUs on each."""
        return f"{self.group}-x{self.gpus}"

    @property
    def pool(self) -> str:
        """What options call this group alone: its size, and its links where the size is not enough."""
        return f"{self.size}-{self.links}" if self.links else self.size

    def chosen(self, by_pool: Mapping[str, Choice], default: Choice) -> Choice:
        """What an option by pool, size or class says of this group; the first of them that is given."""
        names = (self.pool, self.size, self.group)
        return next((by_pool[name] for name in names if name in by_pool), default)


@dataclass(frozen=True)
class Fleet:
    """A deployment's servers: the group of entries first, then classes and sizes in the cluster's order."""

    manifest: DeploymentManifest
    groups: tuple[ServerGroup, ...]

    @property
    def servers(self) -> tuple[ServerAddress, ...]:
        """All servers, the entry first."""
        return tuple(server for group in self.groups for server in group.servers)


def read_fleet(manifest: DeploymentManifest, deployment: Deployment, plan: Plan) -> Fleet:
    """The servers to start. Raises BundleFault, NameFault."""
    _check_names(manifest)
    _check_plan(manifest, plan)
    cluster = deployment.to_cluster()
    known = {server.name: server for server in cluster.servers}
    faults = list(_address_faults(manifest, deployment, known))
    if faults:
        raise BundleFault("\n".join(faults))
    links = _links(cluster)
    by_kind: dict[tuple[str, int, str, tuple[int, int, int]], list[ServerAddress]] = {}
    for server in manifest.servers:
        on_gpu = cluster.gpu_class(server.group).executor is Executor.CUDA
        gpus = known[server.name].gpu_count if on_gpu else 0
        kind = (server.group, gpus, links[server.name] if on_gpu else "", ports_of(server))
        by_kind.setdefault(kind, []).append(server)
    entry = ServerGroup(
        group=naming.ENTRY_GROUP, servers=manifest.entries, executor=Executor.CPU, gpus=0, mps=False
    )
    groups = [entry]
    for (gpu, gpus, speed, _), servers in by_kind.items():
        groups.append(
            ServerGroup(
                group=gpu,
                servers=tuple(servers),
                executor=cluster.gpu_class(gpu).executor,
                gpus=gpus,
                mps=gpus > 0 and any(_has_slices(manifest, server.name) for server in servers),
                links=speed,
                most_workers=max(known[server.name].gpu_count for server in servers)
                * cluster.gpu_class(gpu).max_slices_per_gpu,
            )
        )
    return Fleet(manifest=manifest, groups=tuple(groups))


def _links(cluster: Cluster) -> dict[str, str]:
    """Per server the speed of its pool's links, where its class and size has pools of several speeds."""
    speeds: dict[str, str] = {}
    by_size: dict[tuple[str, int], set[str]] = {}
    for pool in pools_of(cluster):
        for server in pool.servers:
            speeds[server.name] = f"{min(each.bandwidth_gbps for each in pool.servers):g}gbps"
            by_size.setdefault((server.gpu, server.gpu_count), set()).add(speeds[server.name])
    return {
        server.name: speeds[server.name] if len(by_size[server.gpu, server.gpu_count]) > 1 else ""
        for server in cluster.servers
    }


def page_ports(manifest: DeploymentManifest) -> tuple[int, ...]:
    """TCP ports of the entry with a page of metrics: a model's dispatcher each, then a cascade each."""
    dispatchers = (model.feedback_port for model in manifest.models)
    return (*dispatchers, *(cascade.metrics_port for cascade in manifest.cascades))


def ports_of(server: ServerAddress) -> tuple[int, int, int]:
    """HTTP, gRPC and metrics port."""
    return server.http_port, server.grpc_port, server.metrics_port


def stage_programs(manifest: DeploymentManifest) -> Iterator[tuple[ModelEntry, StageProgram, str, str]]:
    """(model, program, worker's Triton model, server) of every worker."""
    for model in manifest.models:
        for pipeline, programs in zip(model.served.pipelines, model.programs, strict=True):
            for stage, program in zip(pipeline.stages, programs, strict=True):
                for worker in stage.workers:
                    yield model, program, worker.name, worker.server


def python_models(manifest: DeploymentManifest, server: ServerAddress) -> tuple[str, ...]:
    """The server's Triton models that have a Python process of their own: all but ensembles."""
    if manifest.is_entry(server):
        ensembles = {model.body_ensemble for model in manifest.models}
        return tuple(name for name in server.models if name not in ensembles)
    workers = {worker for _, _, worker, _ in stage_programs(manifest)}
    return tuple(name for name in server.models if name in workers)


def _has_slices(manifest: DeploymentManifest, server: str) -> bool:
    return any(
        stage.slices_per_gpu > 1 and any(worker.server == server for worker in stage.workers)
        for model in manifest.models
        for pipeline in model.served.pipelines
        for stage in pipeline.stages
    )


def _check_names(manifest: DeploymentManifest) -> None:
    """A manifest may have been edited by hand: its names become labels, file names and arguments."""
    if not manifest.models or not manifest.entry.models:
        raise BundleFault(
            "deployment.json: no models on the entry server; repositories for a comparison without PPipe "
            "have none, and are not started from here"
        )
    naming.check_component(manifest.deployment, "deployment.json: deployment")
    for model in manifest.models:
        naming.check_component(model.model, "deployment.json: model")
    for cascade in manifest.cascades:
        naming.check_component(cascade.name, "deployment.json: cascade")
    for server in manifest.every_server:
        naming.check_component(server.name, "deployment.json: server")
        naming.check_component(server.group, f"deployment.json: group of server {server.name}")
        for name in server.models:
            naming.check_component(name, f"deployment.json: model of server {server.name}")
        folders = [naming.group_folder(group) for group in (server.group, FLEET)]
        if server.repository not in folders:
            raise BundleFault(
                f"deployment.json: server {server.name}: repository {server.repository!r}; "
                f"{' or '.join(folders)} belongs to group {server.group!r}"
            )
    labels = [("deployment", manifest.deployment), ("plan_hash", manifest.plan_hash)]
    labels += [(f"group of server {server.name}", server.group) for server in manifest.servers]
    for field, text in (*labels, *manifest.versions.items()):
        if not is_label_value(text):
            raise BundleFault(f"deployment.json: {field}: {text!r} cannot be a label's value")


def _check_plan(manifest: DeploymentManifest, plan: Plan) -> None:
    made = serial.content_hash(plan)
    if made != manifest.plan_hash:
        raise BundleFault(
            f"deployment.json is of plan {manifest.plan_hash}, the plan given is {made}"
            + (" and is not placed" if plan.placement is None else "")
            + ": generate the repositories again, or give the plan that they were generated from"
        )


def _address_faults(
    manifest: DeploymentManifest, deployment: Deployment, known: dict[str, Server]
) -> Iterator[str]:
    """Where deployment.json and the deployment file say different things."""
    if manifest.deployment != deployment.name:
        yield f"deployment.json is of deployment {manifest.deployment!r}, the file of {deployment.name!r}"
    if manifest.tls != deployment.to_tls():
        yield "tls: deployment.json and the deployment file differ: generate the repositories again"
    entries = deployment.to_cluster().entries
    names, wanted = [each.name for each in manifest.entries], [each.name for each in entries]
    if names != wanted:
        yield (
            f"entries: deployment.json has {', '.join(names)}, the deployment file {', '.join(wanted)}: "
            "generate the repositories again"
        )
        return
    for made, entry in zip(manifest.entries, entries, strict=True):
        given = (entry.http_port, entry.grpc_port, entry.metrics_port)
        if (made.host, ports_of(made)) != (entry.host, given):
            yield (
                f"{entry.name}: deployment.json has {made.host} and ports {ports_of(made)}, the "
                f"deployment file {entry.host} and {given}: generate the repositories again"
            )
    if manifest.leases != (deployment.to_leases() if len(entries) > 1 else None):
        yield "leases: deployment.json and the deployment file differ: generate the repositories again"
    for server in manifest.servers:
        other = known.get(server.name)
        if other is None or other.gpu != server.group:
            yield f"server {server.name} of class {server.group}: not in the deployment file"
        elif (server.host, *ports_of(server)) != (
            other.host,
            other.http_port,
            other.grpc_port,
            other.metrics_port,
        ):
            yield (
                f"server {server.name}: deployment.json has {server.host} and ports {ports_of(server)}, the "
                f"deployment file {other.host} and {(other.http_port, other.grpc_port, other.metrics_port)}: "
                "generate the repositories again"
            )
