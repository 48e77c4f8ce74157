"""The tables of the way in and out of a model's pipelines, for its dispatcher.

Rule: whole microseconds are rounded up, as in planner.serving_build.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from planner.cluster import Cluster
from planner.frames import NO_COST
from planner.problem import Demand
from planner.profile import ModelProfile
from planner.rates import Ends, frame_of, on_cores_us, wire_us
from planner.serving import ServedEnds, ServedEntry, ServedHost, ServedPipeline


def whole_us(time_us: float) -> int:
    """Rounded up."""
    # A sum of floats may lie a hair above the whole number that it means.
    return math.ceil(time_us - 1e-6)


def served_ends(
    ends: Ends, batches: Sequence[int], in_gbps: float, out_gbps: float, finish_cores: float
) -> ServedEnds:
    """Of one pipeline. in_gbps, out_gbps: what the links to its first stage and from its last carry."""
    return ServedEnds(
        wire_us_per_byte=wire_us(1, in_gbps),
        ingress_us=ends.hop_us,
        ingress_us_per_byte=ends.hop_us_per_byte,
        finish_us=tuple(whole_us(on_cores_us(ends.finish_us, batch, finish_cores)) for batch in batches),
        answer_wire_us=tuple(whole_us(wire_us(batch * ends.answer_bytes, out_gbps)) for batch in batches),
        answer_us=tuple(
            whole_us(ends.hop_us + batch * ends.answer_bytes * ends.hop_us_per_byte) for batch in batches
        ),
    )


def served_entry(
    profile: ModelProfile, demand: Demand, cluster: Cluster, pipelines: Sequence[ServedPipeline]
) -> ServedEntry:
    """What is the same for all of the model's pipelines."""
    name = cluster.entry.name
    frame = frame_of(profile, demand)
    prepare = profile.prepare or NO_COST
    return ServedEntry(
        uplink=f"{name}.up",
        downlink=f"{name}.down",
        frame_bytes=frame.bytes,
        frame_pixels=frame.pixels,
        prepare=prepare,
        hosts=() if prepare == NO_COST else tuple(_hosts(cluster, pipelines)),
    )


def _hosts(cluster: Cluster, pipelines: Sequence[ServedPipeline]) -> list[ServedHost]:
    """The servers of first stages; by its class where a server is no real one (links "paper")."""
    cores = {server.name: server.cores for server in cluster.servers}
    found: dict[str, int] = {}
    for pipeline in pipelines:
        stage = pipeline.stages[0]
        of_class = cluster.cores_per_server(stage.gpu)
        for worker in stage.workers:
            there = cores.get(worker.server, None if math.isinf(of_class) else int(of_class))
            if there is not None:
                found[worker.server] = there
    return [ServedHost(server, count) for server, count in found.items()]
