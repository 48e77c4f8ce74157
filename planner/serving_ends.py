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
from planner.rates import FrameEnds, end_us, frame_of, on_cores_us, wire_us
from planner.serving import ServedEnds, ServedEntry, ServedHost, ServedPipeline


def whole_us(time_us: float) -> int:
    """Rounded up."""
    # A sum of floats may lie a hair above the whole number that it means.
    return math.ceil(time_us - 1e-6)


def served_ends(
    ends: FrameEnds,
    batches: Sequence[int],
    entry_gbps: float,
    first_gbps: float,
    last_gbps: float,
    finish_cores: float,
) -> ServedEnds:
    """Of one pipeline. The bandwidths are what the links of the entry, of the first and of the last stage's
    servers carry.
    """

    def answers_us(gbps: float) -> tuple[int, ...]:
        return tuple(whole_us(wire_us(batch * ends.answer_bytes, gbps)) for batch in batches)

    return ServedEnds(
        entry_us_per_byte=wire_us(1, entry_gbps),
        server_us_per_byte=wire_us(1, first_gbps),
        ingress_us=ends.hop_us,
        ingress_us_per_byte=wire_us(1, min(entry_gbps, first_gbps)) + ends.hop_us_per_byte,
        finish_us=tuple(whole_us(on_cores_us(ends.finish_us, batch, finish_cores)) for batch in batches),
        answer_server_us=answers_us(last_gbps),
        answer_entry_us=answers_us(entry_gbps),
        answer_us=tuple(
            whole_us(end_us(ends, batch * ends.answer_bytes, min(entry_gbps, last_gbps))) for batch in batches
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
