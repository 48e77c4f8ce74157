"""The core on virtual time: determinism, replay, limits of load, failures, jitter, memory."""

from __future__ import annotations

import dataclasses
import io
import math
import tracemalloc
from collections.abc import Iterator

import pytest

from planner.serving import ServedModel, ServedPipeline, ServedStage, ServedWorker
from python_backend.scheduler.actions import Action
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.event_log import EventLog
from python_backend.scheduler.events import Event, RequestArrived, TimerFired, WorkerBack, WorkerLost
from python_backend.scheduler.policies import POLICIES
from python_backend.simulator.capacity import Workload, find_capacity, try_load
from python_backend.simulator.driver import SimulatedDriver
from python_backend.simulator.execution import Execution
from python_backend.simulator.jitter import Jitter
from python_backend.simulator.report import simulate


def pool(name: str, latency_us: tuple[int, ...], workers: int) -> ServedStage:
    """Four workers share each link."""
    return ServedStage(
        gpu=name[0],
        slices_per_gpu=1,
        latency_us=latency_us,
        workers=tuple(
            ServedWorker(
                name=f"{name}.w{w}", server="", uplink=f"{name}.up{w // 4}", downlink=f"{name}.down{w // 4}"
            )
            for w in range(workers)
        ),
    )


def mixed_model(slo_us: int = 80_000) -> ServedModel:
    """A two-stage pipeline of 320 frames/s in batches of 2 and a slow one-stage pipeline of 80 frames/s."""
    two = ServedPipeline(
        batch_size=2,
        stages=(pool("a", (14_000, 25_000, 36_000), 4), pool("b", (7_000, 12_500, 18_000), 2)),
        transfer_us=((700, 1_400, 2_100),),
    )
    one = ServedPipeline(batch_size=1, stages=(pool("c", (50_000, 95_000), 4),), transfer_us=())
    return ServedModel(model="mixed", slo_us=slo_us, planned_rps=400.0, pipelines=(two, one))


def single(latency_us: int, workers: int, slo_us: int) -> ServedModel:
    pipeline = ServedPipeline(batch_size=1, stages=(pool("a", (latency_us,), workers),), transfer_us=())
    return ServedModel(
        model="single", slo_us=slo_us, planned_rps=workers * 1e6 / latency_us, pipelines=(pipeline,)
    )


def log_of(policy: str, seed: int, jitter: Jitter) -> str:
    text = io.StringIO()
    workload = Workload(seconds=3.0, seeds=(seed,), jitter=jitter)
    simulate(mixed_model(), 390.0, policy, workload, log=EventLog(text))
    return text.getvalue()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("jitter", [Jitter(), Jitter(share=0.05, straggler_probability=0.01)])
def test_the_same_seed_gives_the_same_bytes(policy: str, jitter: Jitter) -> None:
    log = log_of(policy, 1, jitter)
    assert log == log_of(policy, 1, jitter)
    assert log != log_of(policy, 2, jitter)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_log_replays_to_the_same_actions(policy: str) -> None:
    seen: list[tuple[Event, int, list[Action]]] = []

    def record(event: Event, now_us: int, actions: list[Action]) -> None:
        seen.append((event, now_us, list(actions)))

    simulate(mixed_model(), 420.0, policy, Workload(seconds=3.0, seeds=(1,)), observe=record)
    core = SchedulerCore(mixed_model(), policy)
    assert len(seen) > 2_000
    for event, now_us, actions in seen:
        assert core.handle(event, now_us) == actions


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("rate_rps", [20.0, 380.0, 4_000.0, 400_000.0])
def test_every_frame_is_served_late_or_dropped(policy: str, rate_rps: float) -> None:
    seconds = 2.0 if rate_rps < 100_000 else 0.2
    core = SchedulerCore(mixed_model(), policy)
    driver = SimulatedDriver(mixed_model(), core)
    counts = driver.run(iter(Workload(seconds=seconds).times_us(rate_rps, 1, "m")))
    core.check_invariants()
    assert counts.in_time + counts.missed() == counts.offered
    assert core.unfinished == 0
    assert counts.in_time <= 400 * (seconds + 0.08)


def test_adaptive_serves_in_time_whatever_it_does_not_drop() -> None:
    report = simulate(mixed_model(), 1_000.0, workload=Workload(seconds=5.0, seeds=(1,)))
    assert report.late == 0
    assert report.attainment < 0.5
    assert report.goodput_rps > 0.9 * 400


def test_even_arrivals_at_full_rate_are_all_served() -> None:
    """Frames at exactly the rate of one worker, with no slack but a frame's own service: none is lost."""
    model = single(latency_us=10_000, workers=1, slo_us=10_000)
    counts = SimulatedDriver(model, SchedulerCore(model)).run(iter(range(0, 1_000_000, 10_000)))
    assert counts.attainment() == 1.0
    counts = SimulatedDriver(model, SchedulerCore(model)).run(iter(range(0, 1_000_000, 9_999)))
    assert counts.attainment() == pytest.approx(0.5, abs=0.01)


def test_losses_match_erlang_where_nothing_can_wait() -> None:
    """SLO = service time: a frame that finds no idle worker is lost, which is Erlang's B formula."""
    workers, load = 10, 8.0
    model = single(latency_us=10_000, workers=workers, slo_us=10_000)
    terms = [load**k / math.factorial(k) for k in range(workers + 1)]
    found = try_load(model, "adaptive", load * 100, Workload(seconds=120.0, seeds=(1, 2)), target=0.0)
    assert found.attainment == pytest.approx(1 - terms[-1] / sum(terms), abs=0.004)


def test_reservations_fail_frames_when_latencies_vary_and_the_guard_learns() -> None:
    model = mixed_model()
    jitter = Jitter(share=0.05, seed=5)
    core = SchedulerCore(model)
    driver = SimulatedDriver(model, core, Execution(model, jitter))
    counts = driver.run(iter(Workload(seconds=20.0).times_us(380.0, 1, "m")))
    assert core.guard_us > 0
    assert counts.late < 0.03 * counts.offered
    exact = SchedulerCore(model)
    SimulatedDriver(model, exact).run(iter(Workload(seconds=5.0).times_us(380.0, 1, "m")))
    assert exact.guard_us == 0


def test_all_workers_lost_and_back() -> None:
    model = single(latency_us=1_000, workers=2, slo_us=5_000)
    core = SchedulerCore(model)
    for name in ("a.w0", "a.w1"):
        core.handle(WorkerLost(name), 0)
    assert all(len(core.handle(RequestArrived(i, 5_000), i)) == 1 for i in range(5))
    assert core.queue_length == 0
    core.handle(WorkerBack("a.w1"), 10)
    core.handle(WorkerBack("a.w1"), 11)
    counts = SimulatedDriver(model, core).run(iter([]))
    assert counts.offered == 0
    assert len(core.handle(RequestArrived(9, 5_000), 20)) == 1
    assert core.handle(TimerFired(), 30) == []
    assert core.in_flight == 1
    core.check_invariants()


def test_capacity_is_the_highest_rate_served() -> None:
    model = single(latency_us=10_000, workers=4, slo_us=40_000)
    workload = Workload(seconds=20.0, seeds=(1, 2))
    rates = [float(rate) for rate in range(200, 500, 10)]
    for guess in (210.0, 370.0, 490.0):
        found = find_capacity(model, "adaptive", rates, workload, guess)
        assert found.best is not None
        assert found.best.attainment is not None
        assert found.best.attainment >= 0.99
        above = try_load(model, "adaptive", found.load_rps + 10, workload)
        assert above.attainment is None
    nothing = find_capacity(dataclasses.replace(model, slo_us=9_000), "adaptive", rates, workload, 300.0)
    assert nothing.load_rps == 0.0
    assert nothing.best is None


def test_memory_does_not_grow_with_the_number_of_frames() -> None:
    model = single(latency_us=1_000, workers=4, slo_us=4_000)

    def peak(frames: int) -> int:
        def times() -> Iterator[int]:
            return iter(range(0, frames * 200, 200))

        tracemalloc.start()
        counts = SimulatedDriver(model, SchedulerCore(model)).run(times())
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert counts.offered == frames
        return size

    # One number kept of each frame would be three times as much; other threads' memory is counted too.
    assert peak(40_000) - peak(10_000) < 10 * 30_000


def test_reports_add_up() -> None:
    report = simulate(mixed_model(), 300.0, workload=Workload(seconds=5.0, seeds=(1,)))
    assert report.offered == report.in_time + report.late + sum(report.drops.values())
    assert report.attainment == pytest.approx(report.in_time / report.offered)
    assert (
        sum(int(size) * count for size, count in report.batch_sizes.items()) == report.in_time + report.late
    )
    assert report.latency_p50_us <= report.latency_p90_us <= report.latency_p99_us <= 80_000
    assert all(0 < pool_use.utilisation <= 1.02 for pool_use in report.pools)
    assert set(report.utilisation) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "options", [{"share": 1.0}, {"share": -0.1}, {"straggler_probability": 2.0}, {"straggler_factor": 0.5}]
)
def test_bad_jitter_is_named(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options)) if "share" not in options else "jitter share"):
        Jitter(**options)  # type: ignore[arg-type]
