"""Three hosts with links of their own: what the plan says, the simulator, and real servers.

An entry and two classes of emulated workers in network namespaces; frames cross real TCP on links that are
shaped both ways and bind before anything else does. Preparing is emulated at the hosts' stated cores (and
once done for real). Clients have a link of their own to the entry. Capacity: the highest load of a grid at
which 99 % of the frames are answered within the SLO, over several draws of arrivals: of 10 s at 50 frames/s,
one draw's capacity differs from the next one's by a tenth. Beside each row: what plain TCP carries over the
same links, in messages of a largest batch, with no server there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.helpers.loads.jpeg import JpegLoad, Sent, reasons
from benchmarks.helpers.loads.jpegs import camera_jpegs
from benchmarks.helpers.machines.hosts import delays, has_clocks, hosts, machines_congestion, why_not
from benchmarks.helpers.machines.raw_tcp import carried
from benchmarks.helpers.machines.three_hosts import BATCHES, CASES, REAL_PREPARE, SLO_MS, Case, fleet_of
from benchmarks.helpers.report import main
from planner.plan import Plan
from planner.serving import ServedModel
from python_backend.scheduler.core import SchedulerCore
from python_backend.simulator.arrivals import parse_arrivals
from python_backend.simulator.driver import SimulatedDriver
from python_backend.simulator.together import run_together

TARGET = 0.99
SHARED = (1, 6, 20)
ROWS = ("350kb", "50kb", "loss-350kb", "loss-50kb", "real", *(f"shared-{models}" for models in SHARED))
_DELAY_MS, _JITTER_MS, _LOSS_PERCENT = 1.2, 1.0, 0.1
"""0.2 to 2.2 ms of each link."""
_PICTURES = 8
_CONNECTIONS = (1, 4)
_FIRST_DRAW = 4
_WARM_SHARE = 0.3
"""Of the planned rates. More than the link carries would be learned from: how late answers are, above all."""
_WARM_SEED = 200


def run(
    seconds: float = 10.0,
    loads: tuple[float, ...] = (0.7, 0.9),
    over: float = 2.0,
    draws: int = 3,
    rows: str = ",".join(ROWS),
    congestion: str = "",
) -> Mapping[str, Any]:
    """The figures of this benchmark. draws: of arrivals, for a capacity. rows: which of ROWS, each on a fleet
    of its own. congestion: the hosts' control of TCP, one that this kernel allows to all
    (net.ipv4.tcp_allowed_congestion_control); '': this machine's.
    """
    asked = rows.split(",")
    if unknown := sorted(set(asked) - set(ROWS)):
        raise SystemExit(f"rows: {', '.join(unknown)} is none of {', '.join(ROWS)}")
    if reason := why_not():
        return {"skipped": reason}
    figures: dict[str, Any] = {
        "emulated": True,
        "prepare": "emulated",
        "slo_ms": SLO_MS,
        "clocks_apart": has_clocks(),
        "congestion": congestion or machines_congestion(),
    }
    cases = [dataclasses.replace(case, congestion=congestion) for case in CASES]
    for case in cases:
        if case.name in asked:
            found = _measure(case, seconds, loads, over, draws)
            figures |= found if case is cases[0] else {case.name: found}
    lossy = [case for case in cases if f"loss-{case.name}" in asked]
    figures |= _lossy(lossy, seconds, loads, over, draws)
    if "real" in asked:
        figures["real_prepare"] = _measure_real(cases[0], seconds, loads)
    if shared := [models for models in SHARED if f"shared-{models}" in asked]:
        figures["shared"] = [_measure_shared(cases[0], models, seconds, loads) for models in shared]
    return figures


def _lossy(
    cases: Sequence[Case], seconds: float, loads: Sequence[float], over: float, draws: int
) -> dict[str, Any]:
    how = delays() if cases else None
    if how is None:
        return {"loss": "skipped: no netem and no /dev/net/tun here"} if cases else {}
    worse: dict[str, Any] = {"delay_ms": _DELAY_MS, "jitter_ms": _JITTER_MS, "loss_percent": _LOSS_PERCENT}
    return {
        f"loss-{case.name}": {"by": how.value}
        | _measure(dataclasses.replace(case, **worse), seconds, loads, over, draws)
        for case in cases
    }


def _raw_tcp(case: Case) -> list[dict[str, Any]]:
    """From the entry to the fast hosts' server, over one connection and over as many as there are workers."""
    with hosts(case.links, congestion=case.congestion) as made:
        return [
            dataclasses.asdict(
                carried(made["entry"], made["fast"], BATCHES[-1] * case.frame_bytes, many, 3.0)
            )
            for many in _CONNECTIONS
        ]


def _measure(case: Case, seconds: float, loads: Sequence[float], over: float, draws: int) -> dict[str, Any]:
    raw_tcp = _raw_tcp(case)
    with fleet_of(case) as (planned, tables, fleet):
        served = tables["net"]
        jpegs = camera_jpegs(_PICTURES, case.width, case.height, case.frame_bytes)
        load = JpegLoad(fleet.address, served.model, jpegs, served.slo_us)
        with contextlib.closing(load):
            load.run(_warming(planned.models[0].throughput_rps, seconds))
            capacity_rps, _ = _capacity(
                lambda times: _simulated(served, times), served.planned_rps, seconds, draws, steps=12
            )
            measured_rps, tried = _capacity(
                lambda times: _attainment(load.run(times)), capacity_rps, seconds, draws, steps=5
            )
            points = [_point(load, served, share * measured_rps, share, seconds) for share in loads]
            base = _goodput(load.run(_arrivals(measured_rps, seconds, 5)), seconds)
            flooded = load.run(_arrivals(over * measured_rps, seconds, 6))
        return {
            "case": dataclasses.asdict(case),
            "raw_tcp": raw_tcp,
            "bound_by": list(planned.models[0].bound_by),
            "planned_rps": round(planned.models[0].throughput_rps, 1),
            "simulated_capacity_rps": round(capacity_rps, 1),
            "measured_capacity_rps": round(measured_rps, 1),
            "tried": tried,
            "points": points,
            "goodput_at_capacity_rps": round(base, 1),
            "goodput_at_200_over_capacity": round(_goodput(flooded, seconds) / max(base, 1e-9), 3),
            "refusals_at_200": reasons(flooded),
        }


def _measure_shared(case: Case, models: int, seconds: float, loads: Sequence[float]) -> dict[str, Any]:
    """Several models on one entry, whose dispatchers tell each other what they take of its uplink."""
    with fleet_of(case, models=models) as (planned, tables, fleet), contextlib.ExitStack() as stack:
        jpegs = camera_jpegs(_PICTURES, case.width, case.height, case.frame_bytes)
        clients = {name: JpegLoad(fleet.address, name, jpegs, table.slo_us) for name, table in tables.items()}
        for client in clients.values():
            stack.enter_context(contextlib.closing(client))
        warm = {
            one.model: _warming(one.throughput_rps, seconds, number)
            for number, one in enumerate(planned.models)
        }
        _run_together(clients, warm)
        return {
            "models": models,
            "bound_by": sorted({resource for one in planned.models for resource in one.bound_by}),
            "planned_rps": round(sum(one.throughput_rps for one in planned.models), 1),
            "points": [_shared_point(planned, tables, clients, share, seconds) for share in loads],
        }


def _shared_point(
    planned: Plan,
    tables: Mapping[str, ServedModel],
    clients: Mapping[str, JpegLoad],
    share: float,
    seconds: float,
) -> dict[str, Any]:
    arrivals = {
        one.model: _arrivals(share * one.throughput_rps, seconds, seed)
        for seed, one in enumerate(planned.models, start=20)
    }
    runs = _run_together(clients, arrivals)
    frames = [frame for each in runs.values() for frame in each]
    return {
        "load_factor": share,
        "simulated_attainment": _together(tables, arrivals, ledger=True),
        "simulated_attainment_without_ledger": _together(tables, arrivals, ledger=False),
        "measured_attainment": round(_attainment(frames), 4),
        "least_of_a_model": round(min(map(_attainment, runs.values())), 4),
        "wrong": sum(frame.wrong for frame in frames),
        "refusals": reasons(frames),
    }


def _run_together(
    clients: Mapping[str, JpegLoad], arrivals: Mapping[str, Sequence[int]]
) -> dict[str, list[Sent]]:
    with ThreadPoolExecutor(len(clients)) as pool:
        runs = pool.map(lambda name: clients[name].run(arrivals[name]), clients)
        return dict(zip(clients, runs, strict=True))


def _together(tables: Mapping[str, ServedModel], arrivals: Mapping[str, list[int]], ledger: bool) -> float:
    counts = run_together(
        [tables[name] for name in arrivals], [iter(times) for times in arrivals.values()], ledger
    )
    return round(sum(one.in_time for one in counts) / sum(one.offered for one in counts), 4)


def _measure_real(case: Case, seconds: float, loads: Sequence[float]) -> dict[str, Any]:
    """Frames that are decoded for real, by this machine's cores, half of them a host's; and beside them the
    same frames at the same times, with decoding emulated at what it was measured to take.
    """
    cores = max(1, (os.cpu_count() or 2) // 2)
    case = dataclasses.replace(case, prepare=REAL_PREPARE, cores=cores)
    return {"cores_per_host": cores} | {
        prepare: _points(case, prepare, seconds, loads) for prepare in ("emulated", "real")
    }


def _points(case: Case, prepare: str, seconds: float, loads: Sequence[float]) -> dict[str, Any]:
    """At shares of the planned rate."""
    with fleet_of(case, prepare) as (planned, tables, fleet):
        served, planned_rps = tables["net"], planned.models[0].throughput_rps
        jpegs = camera_jpegs(_PICTURES, case.width, case.height, case.frame_bytes)
        load = JpegLoad(fleet.address, served.model, jpegs, served.slo_us)
        with contextlib.closing(load):
            load.run(_warming(planned_rps, seconds))
            return {
                "planned_rps": round(planned_rps, 1),
                "points": [_point(load, served, share * planned_rps, share, seconds) for share in loads],
            }


def _point(
    load: JpegLoad, served: ServedModel, rate_rps: float, share: float, seconds: float
) -> dict[str, Any]:
    arrivals = _arrivals(rate_rps, seconds, 3)
    frames = load.run(arrivals)
    return {
        "load_factor": share,
        "rate_rps": round(rate_rps, 1),
        "simulated_attainment": round(_simulated(served, arrivals), 4),
        "measured_attainment": round(_attainment(frames), 4),
        "wrong": sum(frame.wrong for frame in frames),
        "unanswered": sum(frame.ended_us is None for frame in frames),
    }


def _simulated(served: ServedModel, arrivals_us: Sequence[int]) -> float:
    return SimulatedDriver(served, SchedulerCore(served)).run(iter(arrivals_us)).attainment()


def _capacity(
    attained: Callable[[Sequence[int]], float], guess_rps: float, seconds: float, draws: int, steps: int
) -> tuple[float, list[list[float]]]:
    """By halving between what is served and what is not. The simulator and the servers get the same frames
    at the same times.
    """
    tried: list[list[float]] = []
    low, high = 0.0, guess_rps * 1.1
    rate_rps = guess_rps * 0.95
    for _ in range(steps):
        share = statistics.fmean(
            attained(_arrivals(rate_rps, seconds, _FIRST_DRAW + draw)) for draw in range(draws)
        )
        tried.append([round(rate_rps, 1), round(share, 4)])
        low, high = (rate_rps, high) if share >= TARGET else (low, rate_rps)
        rate_rps = (low + high) / 2 if low else high * 0.8
    return (low or rate_rps), tried


def _warming(planned_rps: float, seconds: float, number: int = 0) -> list[int]:
    """What comes before frames count. number: of the model, whose frames come at times of their own."""
    return _arrivals(_WARM_SHARE * planned_rps, seconds / 2, _WARM_SEED + number)


def _arrivals(rate_rps: float, seconds: float, seed: int) -> list[int]:
    return list(parse_arrivals("poisson", rate_rps).times_us(seconds, seed, "hosts"))


def _attainment(frames: Sequence[Sent]) -> float:
    return statistics.fmean(frame.in_time for frame in frames) if frames else 0.0


def _goodput(frames: Sequence[Sent], seconds: float) -> float:
    return sum(frame.in_time for frame in frames) / seconds


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0],
        run,
        seconds=10.0,
        loads=(0.7, 0.9),
        over=2.0,
        draws=3,
        rows=",".join(ROWS),
        congestion="",
    )
