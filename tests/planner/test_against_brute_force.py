"""Plans of tiny random problems against a brute force that shares no code with the planner's search.

The brute force lists pipelines with plain loops straight from the README of the paper's data, and finds by
dynamic programming over used slices the best throughput of a model for every number of GPUs, dropping
nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import Cluster, EntryServer, GpuClass, Server
from planner.explain import Infeasible
from planner.feasibility import violations
from planner.frames import FrameCost, FrameSize
from planner.planning import plan
from planner.problem import Demand, Objective, PlanOptions, Problem
from planner.profile import LatencyTable, ModelProfile, Overheads, Profile

Place = tuple[int, str]


@dataclass(frozen=True)
class Pipe:
    """(class, slices, frames/s of one worker) per stage."""

    stages: tuple[tuple[str, int, float], ...]


def pipes(problem: Problem, demand: Demand) -> Iterator[Pipe]:
    """Every feasible pipeline, by plain loops."""
    profile = problem.profile.model(demand.model)
    margin = problem.options.slo_margin if demand.slo_margin is None else demand.slo_margin
    budget = demand.slo_us - round(margin * demand.slo_us)
    kinds = [(t.gpu, t.slices_per_gpu) for t in profile.tables]
    allowed = {c.name: c.max_slices_per_gpu for c in problem.cluster.gpu_classes}
    kinds = [(g, s) for g, s in kinds if s <= allowed[g] and problem.cluster.gpu_count(g)]
    blocks = profile.block_count
    for stages in range(1, problem.options.max_stages + 1):
        for cuts in itertools.combinations(range(1, blocks), stages - 1):
            edges = (0, *cuts, blocks)
            for chosen in itertools.product(kinds, repeat=stages):
                for batch in (1, 2):
                    pipe = _pipe(problem, demand, profile, edges, chosen, batch, budget)
                    if pipe is not None:
                        yield pipe


def _pipe(
    problem: Problem,
    demand: Demand,
    profile: ModelProfile,
    edges: tuple[int, ...],
    chosen: tuple[tuple[str, int], ...],
    batch: int,
    budget: int,
) -> Pipe | None:
    tables = [profile.table(gpu, slices) for gpu, slices in chosen]
    if any(table is None or batch not in table.batch_sizes for table in tables):
        return None
    latency = []
    for table, (start, end) in zip(tables, itertools.pairwise(edges), strict=True):
        assert table is not None
        column = table.batch_sizes.index(batch)
        latency.append(
            sum(table.latency_us[b][column] for b in range(start, end)) + profile.overheads.stage_us
        )
    hops = []
    for (sender, _), (receiver, _), cut in zip(chosen, chosen[1:], edges[1:], strict=False):
        gbps = min(s.bandwidth_gbps for s in problem.cluster.servers if s.gpu in (sender, receiver))
        gbps *= problem.cluster.carried_share
        wire = batch * profile.cut_bytes[cut - 1] * 8 / (gbps * 1000)
        copy = batch * profile.cut_bytes[cut - 1] * profile.overheads.hop_us_per_byte
        hops.append(wire + profile.overheads.hop_us + copy)
    way, limits = _way_in_and_out(problem, demand, profile, chosen, batch)
    building = 0.0
    if batch > 1 and demand.batch_build_rps:
        building = problem.options.batch_build_factor * 1e6 * (batch - 1) / demand.batch_build_rps
    if sum(latency) + sum(hops) + way + building > budget + 1e-6:
        return None
    rates = []
    for i, (gpu, slices) in enumerate(chosen):
        rate = 1e6 * batch / latency[i]
        per_server = max(s.gpu_count for s in problem.cluster.servers if s.gpu == gpu)
        for hop in hops[max(0, i - 1) : i + 1]:
            if hop > 0:  # nothing crosses a cut of no bytes, so its link limits nothing
                carried = 1e6 * batch / hop / slices / per_server
                if problem.options.count_ends:
                    carried *= _usable(_server_room(problem, demand, gpu) / (hop / batch))
                rate = min(rate, carried)
        rates.append((gpu, slices, min(rate, limits[i] / slices / per_server)))
    return Pipe(tuple(rates))


def _way_in_and_out(
    problem: Problem,
    demand: Demand,
    profile: ModelProfile,
    chosen: tuple[tuple[str, int], ...],
    batch: int,
) -> tuple[float, list[float]]:
    """Time of a batch before the first stage and after the last; per stage what its whole server allows."""
    limits = [math.inf] * len(chosen)
    if not problem.options.count_ends:
        return 0.0, limits
    assert demand.frame is not None
    assert demand.answer_bytes is not None
    assert profile.prepare is not None
    total = 0.0
    pixels = demand.frame.width * demand.frame.height
    prepare = profile.prepare.fixed_us + profile.prepare.us_per_pixel * pixels
    prepare += profile.prepare.us_per_byte * demand.frame.bytes
    for i, size, core_us in (
        (0, demand.frame.bytes, prepare),
        (len(chosen) - 1, demand.answer_bytes, profile.finish_us),
    ):
        servers = [s for s in problem.cluster.servers if s.gpu == chosen[i][0]]
        gbps = min(s.bandwidth_gbps for s in servers) * problem.cluster.carried_share
        entry_gbps = (problem.cluster.entry.bandwidth_gbps or 0) * problem.cluster.carried_share
        cores = min(s.cores or 0 for s in servers)
        total += batch * size * 8 / (min(gbps, entry_gbps) * 1000) + profile.overheads.hop_us
        total += batch * size * profile.overheads.hop_us_per_byte + math.ceil(batch / cores) * core_us
        room = _server_room(problem, demand, chosen[i][0])
        limits[i] = min(limits[i], gbps * 1e9 / 8 / size * _usable(room / (size * 8 / (gbps * 1000))))
        busy_us = core_us if len(chosen) > 1 else prepare + profile.finish_us
        if busy_us:
            limits[i] = min(limits[i], cores * 1e6 / busy_us)
    return total, limits


def _server_room(problem: Problem, demand: Demand, gpu: str) -> float:
    """How long frames may wait for a server's link, as if it had those of some other servers beside."""
    return _wait_us(problem, demand) * math.sqrt(sum(s.gpu == gpu for s in problem.cluster.servers))


def most_at_entry(problem: Problem, wanted: list[float]) -> float:
    """The largest factor of these rates that the entry server carries."""
    if not problem.options.count_ends:
        return math.inf
    entry, carried = problem.cluster.entry, problem.cluster.carried_share
    frames, answers, core_s = [], [], 0.0
    for demand, rate in zip(problem.demands, wanted, strict=True):
        assert demand.frame is not None
        assert demand.answer_bytes is not None
        frames.append(demand.frame.bytes * 8)
        answers.append(demand.answer_bytes * 8)
        cost = problem.profile.model(demand.model).overheads.entry
        core_s += rate * (cost.fixed_us + cost.us_per_byte * demand.frame.bytes) / 1e6
    link = (entry.bandwidth_gbps or 0) * carried * 1e9
    if entry.client_bandwidth_gbps is None:
        both = [f + a for f, a in zip(frames, answers, strict=True)]
        most = _most_on_link(problem, link, both, wanted)
    else:
        ways = [(each, bits) for each in (link, entry.client_bandwidth_gbps * carried * 1e9)
                for bits in (frames, answers)]  # fmt: skip
        most = min(_most_on_link(problem, each, bits, wanted) for each, bits in ways)
    return most if entry.cores is None or not core_s else min(most, entry.cores / core_s)


def _most_on_link(problem: Problem, bits_per_s: float, bits: list[int], wanted: list[float]) -> float:
    """The same of one link, each model's frames of so many bits: with room for those that wait."""
    frames = sum(wanted)
    mean = sum(size * rate for size, rate in zip(bits, wanted, strict=True)) / frames
    square = sum(size**2 * rate for size, rate in zip(bits, wanted, strict=True)) / frames
    wait_s = min(_wait_us(problem, demand) for demand in problem.demands) / 1e6
    usable = _usable(wait_s * bits_per_s / mean, square / mean**2)
    return usable * bits_per_s / (mean * frames)


def _wait_us(problem: Problem, demand: Demand) -> float:
    margin = problem.options.slo_margin if demand.slo_margin is None else demand.slo_margin
    return demand.slo_us * max(0.1, margin)


def _usable(frames: float, variation: float = 1.0) -> float:
    """The share u of a link of which 0.5 % is lost where so many frames may wait: w exp(-2wK') = 0.5 % in
    long buffers, by planner.usable's docstring; here by halving u. Frames and variation in hundredths.
    """
    variation = round(variation, 2)
    room = max(0.1, round(frames, 2) + 1.0 - 0.4 * (variation - 1)) / variation
    low, high = 1e-6, 1.0
    for _ in range(60):
        u = (low + high) / 2
        w = (1 - u) / u
        kept = math.expm1(min(700.0, 2 * w * room))
        low, high = (low, u) if (w / kept if kept > 0 else 1 / (2 * room)) > 0.005 else (u, high)
    return low if high < 1.0 else 1.0


def best_by_gpus(problem: Problem, demand: Demand) -> dict[tuple[int, ...], float]:
    """Most frames/s of a model for each vector of whole GPUs per class."""
    classes = [one.name for one in problem.cluster.gpu_classes]
    counts = {gpu: problem.cluster.gpu_count(gpu) for gpu in classes}
    places = [(k, gpu) for k in range(problem.options.max_stages) for gpu in classes]
    states: dict[tuple[Fraction, ...], float] = {(Fraction(0),) * len(places): 0.0}
    for pipe in set(pipes(problem, demand)):
        ranges = [range(1, counts[gpu] * slices + 1) for gpu, slices, _ in pipe.stages]
        added: dict[tuple[Fraction, ...], float] = dict(states)
        for workers in itertools.product(*ranges):
            rate = min(n * r for n, (_, _, r) in zip(workers, pipe.stages, strict=True))
            use = {
                (k, g): Fraction(n, s)
                for k, (n, (g, s, _)) in enumerate(zip(workers, pipe.stages, strict=True))
            }
            for state, before in states.items():
                after = tuple(
                    used + use.get(place, Fraction(0)) for place, used in zip(places, state, strict=True)
                )
                if all(sum(_up(after, places, g)) <= counts[g] for g in classes):
                    added[after] = max(added.get(after, 0.0), before + rate)
        states = added
    best: dict[tuple[int, ...], float] = {}
    for state, rate in states.items():
        gpus = tuple(sum(_up(state, places, g)) for g in classes)
        best[gpus] = max(best.get(gpus, 0.0), rate)
    return best


def _up(state: tuple[Fraction, ...], places: list[Place], gpu: str) -> list[int]:
    return [math.ceil(used) for place, used in zip(places, state, strict=True) if place[1] == gpu]


def brute_force(problem: Problem) -> float:
    """The best objective: max-rate's factor (0 if a model gets nothing), or the least cost (inf if none)."""
    problem = told_apart(problem)
    classes = [one.name for one in problem.cluster.gpu_classes]
    tables = [best_by_gpus(problem, demand) for demand in problem.demands]
    counts = [problem.cluster.gpu_count(gpu) for gpu in classes]
    maximise = problem.options.objective is Objective.MAX_RATE
    best = 0.0 if maximise else math.inf
    for choice in itertools.product(*(table.items() for table in tables)):
        gpus = [sum(vector[g] for vector, _ in choice) for g in range(len(classes))]
        if any(used > there for used, there in zip(gpus, counts, strict=True)):
            continue
        rates = [rate for _, rate in choice]
        if maximise:
            best = max(best, min(r / (d.weight or 1) for r, d in zip(rates, problem.demands, strict=True)))
        elif all(r >= (d.rate_rps or 0) * (1 - 1e-9) for r, d in zip(rates, problem.demands, strict=True)):
            cost = sum(n * problem.options.gpu_cost[g[0]] for n, g in zip(gpus, classes, strict=True))
            best = min(best, cost)
    if maximise:
        return min(best, most_at_entry(problem, [demand.weight or 1 for demand in problem.demands]))
    return best if most_at_entry(problem, [d.rate_rps or 0 for d in problem.demands]) > 1 - 1e-9 else math.inf


def told_apart(problem: Problem) -> Problem:
    """A class for each speed of link that servers of a class have: `A10`."""
    cluster, profile = problem.cluster, problem.profile

    def name(server: Server) -> str:
        return f"{server.gpu}{server.bandwidth_gbps:g}"

    classes = {name(server): cluster.gpu_class(server.gpu) for server in cluster.servers}
    models = [
        replace(
            model,
            tables=tuple(
                replace(table, gpu=new)
                for new, old in classes.items()
                for table in model.tables
                if table.gpu == old.name
            ),
        )
        for model in profile.models
    ]
    return replace(
        problem,
        cluster=replace(
            cluster,
            gpu_classes=tuple(replace(old, name=new) for new, old in classes.items()),
            servers=tuple(replace(server, gpu=name(server)) for server in cluster.servers),
        ),
        profile=Profile(tuple(models)),
    )


latencies = st.integers(100, 3000).map(float)


@st.composite
def tables_of(draw: st.DrawFn, blocks: int) -> tuple[LatencyTable, ...]:
    kinds = draw(
        st.lists(
            st.sampled_from([("A", 1), ("A", 2), ("B", 1), ("B", 2)]), min_size=1, max_size=3, unique=True
        )
    )
    tables = []
    for gpu, slices in kinds:
        batches = draw(st.sampled_from([(1,), (2,), (1, 2)]))
        rows = tuple(tuple(draw(latencies) for _ in batches) for _ in range(blocks))
        tables.append(LatencyTable(gpu=gpu, slices_per_gpu=slices, batch_sizes=batches, latency_us=rows))
    return tuple(tables)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    models = []
    demands = []
    for number in range(draw(st.integers(1, 2))):
        blocks = draw(st.integers(1, 3))
        models.append(
            ModelProfile(
                model=f"m{number}",
                cut_bytes=tuple(draw(st.integers(0, 300_000)) for _ in range(blocks - 1)),
                tables=draw(tables_of(blocks)),
                overheads=Overheads(
                    stage_us=draw(st.sampled_from([0.0, 50.0])), hop_us=draw(st.sampled_from([0.0, 30.0]))
                ),
            )
        )
        demands.append(
            Demand(
                model=f"m{number}",
                slo_us=draw(st.integers(2_000, 12_000)),
                weight=draw(st.sampled_from([0.5, 1.0, 1.7])),
                batch_build_rps=draw(st.sampled_from([300.0, 2000.0])),
            )
        )
    sizes = {"A": draw(st.sampled_from([[1], [2], [1, 1]])), "B": draw(st.sampled_from([[1], [1, 1]]))}
    cluster = Cluster(
        gpu_classes=(GpuClass("A", max_slices_per_gpu=2), GpuClass("B", max_slices_per_gpu=2)),
        servers=tuple(
            Server(f"{gpu}{i}", gpu, count, draw(st.sampled_from([1.0, 10.0])))
            for gpu, counts in sizes.items()
            for i, count in enumerate(counts)
        ),
    )
    options = PlanOptions(max_stages=draw(st.integers(1, 2)), slo_margin=0.2, gpu_cost={"A": 3.0, "B": 1.0})
    return Problem(cluster=cluster, profile=Profile(tuple(models)), demands=tuple(demands), options=options)


@st.composite
def fed_problems(draw: st.DrawFn) -> Problem:
    """The same with the way in and out counted; the entry binds some of them."""
    problem = draw(problems())
    models = tuple(
        replace(
            model,
            prepare=FrameCost(draw(st.sampled_from([0.0, 300.0])), draw(st.sampled_from([0.0, 0.01])), 0.001),
            finish_us=draw(st.sampled_from([0.0, 100.0])),
            overheads=replace(
                model.overheads,
                hop_us_per_byte=draw(st.sampled_from([0.0, 0.001])),
                entry=FrameCost(draw(st.sampled_from([0.0, 200.0])), 0.0, 0.001),
            ),
        )
        for model in problem.profile.models
    )
    demands = tuple(
        replace(
            demand,
            frame=FrameSize(100, 200, draw(st.integers(1_000, 300_000))),
            answer_bytes=draw(st.integers(1, 50_000)),
        )
        for demand in problem.demands
    )
    cores = draw(st.integers(1, 3))
    cluster = replace(
        problem.cluster,
        servers=tuple(replace(s, cores=cores * s.gpu_count) for s in problem.cluster.servers),
        entry=EntryServer(
            bandwidth_gbps=draw(st.sampled_from([0.2, 1.0, 5.0])),
            client_bandwidth_gbps=draw(st.sampled_from([None, 0.5, 5.0])),
            cores=draw(st.sampled_from([None, 1])),
        ),
        carried_share=draw(st.sampled_from([1.0, 0.95])),
    )
    options = replace(problem.options, count_ends=True)
    return replace(problem, profile=Profile(models), demands=demands, cluster=cluster, options=options)


@given(st.one_of(problems(), fed_problems()))
@settings(max_examples=120)
def test_the_proven_plan_is_the_best_there_is(problem: Problem) -> None:
    best = brute_force(problem)
    if best == 0:
        with pytest.raises(Infeasible):
            plan(problem)
        return
    made = plan(problem)
    assert made.objective == pytest.approx(best, rel=1.5e-4)
    assert made.upper_bound >= best * (1 - 1e-7)
    assert violations(made, problem) == []
    assert plan(problem, mode="fast").upper_bound >= best * (1 - 1e-7)


@given(st.one_of(problems(), fed_problems()), st.sampled_from([0.2, 0.6, 0.95, 1.3]))
@settings(max_examples=80)
def test_the_cheapest_plan_costs_what_brute_force_says(problem: Problem, share: float) -> None:
    most = brute_force(problem)
    demands = tuple(
        replace(demand, rate_rps=max(1.0, share * most) * (demand.weight or 1), batch_build_rps=300.0)
        for demand in problem.demands
    )
    problem = replace(
        problem, demands=demands, options=replace(problem.options, objective=Objective.MIN_COST)
    )
    best = brute_force(problem)
    if math.isinf(best):
        with pytest.raises(Infeasible):
            plan(problem)
        return
    made = plan(problem)
    assert made.objective == pytest.approx(best)
    assert made.upper_bound <= best
    assert violations(made, problem) == []


@given(problems())
@settings(max_examples=20)
def test_one_pipeline_per_class_tuple_is_kept_and_no_better(problem: Problem) -> None:
    limited = replace(problem, options=replace(problem.options, pipelines_per_class_pair=1))
    try:
        made = plan(limited)
    except Infeasible:
        return
    for model in made.models:
        tuples = [tuple(stage.at for stage in pipeline.stages) for pipeline in model.pipelines]
        assert len(tuples) == len(set(tuples))
    assert made.objective <= plan(problem).upper_bound * (1 + 1e-7)
