"""A recorded log is served again: the same actions, or the first difference."""

from __future__ import annotations

import io

import pytest

from planner import serial
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.event_log import EventLog, LogHeader, read_logs
from python_backend.scheduler.events import RequestArrived, WorkerLost
from python_backend.scheduler.policies import POLICIES
from python_backend.simulator.capacity import Workload
from python_backend.simulator.driver import SimulatedDriver
from python_backend.simulator.jitter import Jitter
from python_backend.simulator.replay import Replayed, replay_as_it_was, simulate_again
from python_backend.simulator.report import simulate
from tests.simulator.test_simulation import mixed_model


def replayed(text: str) -> Replayed:
    ((header, lines),) = (
        (header, list(lines)) for header, lines in read_logs(iter(io.StringIO(text)), "log")
    )
    return replay_as_it_was(header, lines)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_simulated_log_replays_to_the_same_actions_and_counts(policy: str) -> None:
    file = io.StringIO()
    workload = Workload(seconds=3.0, seeds=(1,), jitter=Jitter(share=0.05))
    report = simulate(mixed_model(), 420.0, policy, workload, log=EventLog(file))
    found = replayed(file.getvalue())
    assert found.difference is None
    assert found.lines == found.equal_lines > 1000
    assert found.served.frames == report.offered
    assert (found.served.in_time, found.served.late) == (report.in_time, report.late)
    assert found.served.dropped == report.drops


def test_the_same_arrivals_under_another_policy_are_what_the_simulator_gives() -> None:
    file = io.StringIO()
    simulate(mixed_model(), 420.0, "adaptive", Workload(seconds=3.0, seeds=(1,)), log=EventLog(file))
    found = replayed(file.getvalue())
    counts = SimulatedDriver(mixed_model(), SchedulerCore(mixed_model(), "reference")).run(
        iter(found.arrivals_us)
    )
    assert simulate_again(found, mixed_model(), "reference").in_time == counts.in_time < found.served.frames


def test_a_changed_action_is_found_with_its_line() -> None:
    file = io.StringIO()
    simulate(mixed_model(), 200.0, "adaptive", Workload(seconds=1.0, seeds=(1,)), log=EventLog(file))
    lines = file.getvalue().splitlines(keepends=True)
    changed = next(index for index, line in enumerate(lines) if "Dispatch(" in line)
    lines[changed] = lines[changed].replace("Dispatch(", "Dispatched(")
    found = replayed("".join(lines))
    assert found.difference is not None
    assert found.difference.line == changed
    assert found.equal_lines == found.lines - 1


def test_a_log_begun_in_the_middle_counts_what_was_recorded() -> None:
    served = mixed_model()
    core, file = SchedulerCore(served), io.StringIO()
    log = EventLog(file)
    seen = [0]

    def record(event: object, now_us: int, actions: object) -> None:
        seen[0] += 1
        if seen[0] == 400:
            log.begin(LogHeader("mixed", "adaptive", core.next_batch_id, False, serial.to_plain(served)))
        elif seen[0] > 400:
            log(event, now_us, actions)  # type: ignore[arg-type]

    times = Workload(seconds=4.0, seeds=(1,)).times_us(150.0, 1, "mixed")
    counts = SimulatedDriver(served, core, observe=record).run(iter(times))
    found = replayed(file.getvalue())
    assert found.lines > 300
    assert found.difference is not None, "the core had batches under way that the log does not know"
    assert 300 < found.served.frames < counts.offered
    assert found.served.attainment == 1.0 == counts.attainment()


def test_together_and_lost_workers_replay() -> None:
    served = mixed_model()
    core, file = SchedulerCore(served), io.StringIO()
    log = EventLog(file)
    log.begin(LogHeader("mixed", "adaptive", 0, True, serial.to_plain(served)))
    lost = WorkerLost(served.pipelines[0].stages[0].workers[0].name)
    log(lost, 5, core.handle(lost, 5))
    together = [RequestArrived(number, 80_000) for number in range(4)]
    log.together(together, 10, core.handle_arrivals(together, 10))
    found = replayed(file.getvalue())
    assert (found.lines, found.equal_lines, found.served.frames) == (2, 2, 4)
