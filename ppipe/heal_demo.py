"""A server is killed for good under load, once with `ppipe operate` beside it and once without:
`ppipe demo --heal`.

Rules
- Both runs get the same arrivals, on the same plan; the same server is killed at the same time, and not
  started again.
- It is the server whose loss costs most that another plan gives back. The load is LOAD of what that other
  plan serves, so it can all be served again.
- A frame counts in the second in which it was due.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from model_repo_generator.generate import generate
from planner.deployment import Deployment
from planner.manifest import DeploymentManifest
from planner.plan import Plan
from planner.problem import Problem
from planner.profile import Profile
from planner.rollout.keeping import held_by
from planner.rollout.steps import Step, StepKind
from ppipe import steps
from ppipe.bench.frames import make_pictures, make_tensors
from ppipe.bench.loadgen import LoadOptions, send_load
from ppipe.bench.outcome import Fate, FrameResult
from ppipe.bench.run import slos_us
from ppipe.bench.target import served_target
from ppipe.bench.workload import RequestTrace, make_workload
from ppipe.console import ServerBoard, progress_bar, step
from ppipe.operate.looks import Watch
from ppipe.operate.loop import OperateLoop, OperateSettings
from ppipe.operate.planners import Planners
from ppipe.operate.replan import Truth, factor, plan_now, problem_now, tables_of, what_is_left, with_servers
from ppipe.operate.served import what_is_served
from ppipe.rollout.deployed import Deployed
from ppipe.serving.launcher import ServedDeployment
from ppipe.workspace import Workspace, save

LOAD = 0.85
PICTURES = 4
LOST_AFTER = 0.35
"""Of the run: what is before shows that all is well, and is the loop's time for its plans."""
WITHOUT, WITH = "without operate", "with operate"


class NothingToHeal(ValueError):
    """A deployment that serves as much by its plan as by any other, whichever server is lost."""


@dataclass(frozen=True)
class HealOptions:
    """`seconds`: of load in each run."""

    seconds: float = 36.0
    seed: int = 1


@dataclass(frozen=True)
class LostServer:
    """The server to be lost; of the load, what is served after it by the plan as it is and by another."""

    server: str
    left: float
    planned: float


@dataclass(frozen=True)
class HealRun:
    """One run. Seconds from its start; served_s: when dispatchers had the new plan, None: they never had."""

    name: str
    outcomes: Sequence[FrameResult]
    lost_s: float
    served_s: float | None = None
    said: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class HealResult:
    """Both, without operate first. rates_rps: what came, by model."""

    loss: LostServer
    rates_rps: Mapping[str, float]
    seconds: float
    slo_us: Mapping[str, int]
    runs: tuple[HealRun, HealRun]

    def goodput_rps(self, run: HealRun, from_s: float, to_s: float) -> float:
        """Frames/s that were due then and answered in time."""
        good = sum(self._is_good(frame) for frame in due(run.outcomes, from_s, to_s))
        return good / (to_s - from_s)

    def attained(self, run: HealRun, from_s: float, to_s: float) -> float:
        """The share in time of the frames that were due then; 1 where there were none."""
        found = due(run.outcomes, from_s, to_s)
        return sum(map(self._is_good, found)) / len(found) if found else 1.0

    def _is_good(self, frame: FrameResult) -> bool:
        return frame.is_good(self.slo_us[frame.model])

    def summary(self) -> dict[str, float | int | str | None]:
        """The last line of `ppipe demo --heal --json`."""
        without, healed = self.runs
        frames = [*without.outcomes, *healed.outcomes]
        return {
            "server": self.loss.server,
            "requests": len(frames),
            "unanswered": sum(frame.fate is Fate.UNANSWERED for frame in frames),
            "offered_rps": round(sum(self.rates_rps.values()), 2),
            "before_loss": round(self.attained(healed, 0.0, healed.lost_s), 4),
            "after_loss_without": round(self.attained(without, without.lost_s, self.seconds), 4),
            "after_loss": round(self.attained(healed, healed.lost_s, self.seconds), 4),
            "new_plan_s": None if healed.served_s is None else round(healed.served_s - healed.lost_s, 2),
            "after_new_plan": None
            if healed.served_s is None or healed.served_s >= self.seconds
            else round(self.attained(healed, healed.served_s, self.seconds), 4),
        }

    def lines(self) -> list[str]:
        """For a terminal: what happened, and what came of it."""
        healed = self.runs[1]
        found = [
            f"{self.loss.server} was killed for good after {healed.lost_s:.0f} s of {self.seconds:.0f}, "
            f"under {sum(self.rates_rps.values()):.0f} frames/s",
            *(f"{at_s:5.1f} s  {text}" for at_s, text in healed.said),
        ]
        if healed.served_s is not None:
            found.append(
                f"{healed.served_s:5.1f} s  the new plan serves, {healed.served_s - healed.lost_s:.1f} s "
                "after the loss"
            )
        return [
            *found,
            *(
                f"{run.name}: {self.attained(run, 0.0, run.lost_s):.0%} in time before the loss, "
                f"{self.attained(run, run.lost_s, self.seconds):.0%} after it"
                for run in self.runs
            ),
        ]


def due(outcomes: Sequence[FrameResult], from_s: float, to_s: float) -> list[FrameResult]:
    """The frames that were due between."""
    return [frame for frame in outcomes if from_s * 1e6 <= frame.due_us < to_s * 1e6]


def run_heal_demo(deployment: Deployment, root: Workspace, base: Path, options: HealOptions) -> HealResult:
    """Everything, in order. `base`: folder that relative paths of the deployment file start from. Raises
    NothingToHeal.
    """
    with step("profile: split the models, time their blocks"):
        profile = steps.run_profile(deployment, root)
    with step("plan: for all servers, and for the loss of each"):
        plan = steps.run_plan(deployment, profile, root, "ppipe")
        loss = worst_loss(plan, deployment.to_problem(profile))
    rates = {model.model: LOAD * loss.planned * model.throughput_rps for model in plan.models}
    workload = make_workload(rates, seconds=options.seconds, seed=options.seed, frames=PICTURES)
    runs = [
        _run(name, deployment, profile, plan, Workspace(root.root / folder), base, workload, loss)
        for name, folder in ((WITHOUT, "without"), (WITH, "with"))
    ]
    return HealResult(loss, rates, options.seconds, slos_us(runs[0][0]), (runs[0][1], runs[1][1]))


def worst_loss(plan: Plan, problem: Problem) -> LostServer:
    """The loss that another plan gives back most of. Raises NothingToHeal."""
    problem = with_servers(problem, {gpu.server for gpu in held_by(plan)})  # others are not started
    losses = [_loss_of(server.name, plan, problem) for server in problem.cluster.servers]
    worst = max(losses, key=lambda loss: loss.planned - loss.left)
    if worst.planned <= worst.left:
        raise NothingToHeal(
            "whichever stage server is lost, the plan that is served does as well as any other; "
            "a deployment of several servers and models, with a model on one server alone, has more to show"
        )
    return worst


def _loss_of(server: str, plan: Plan, problem: Problem) -> LostServer:
    rates = {model.model: model.throughput_rps for model in plan.models}
    truth = Truth(out=frozenset({server}), rates_rps=rates)
    left = min(1.0, factor(tables_of(what_is_left(plan, problem, truth), problem), rates))
    try:
        other = plan_now(problem, truth, plan)
    except ValueError:
        return LostServer(server, left, 0.0)
    return LostServer(server, left, min(1.0, factor(tables_of(other, problem_now(problem, truth)), rates)))


def _run(
    name: str,
    deployment: Deployment,
    profile: Profile,
    plan: Plan,
    workspace: Workspace,
    base: Path,
    workload: RequestTrace,
    loss: LostServer,
) -> tuple[DeploymentManifest, HealRun]:
    with step(f"generate: {name}"):
        for made, path in ((profile, workspace.profile), (plan, workspace.plan)):
            save(made, path)
        manifest = generate(deployment, profile, plan, workspace.repository, base=base)
    with (
        step(f"serve: {name}"),
        ServerBoard() as board,
        ServedDeployment(workspace.repository, workspace.logs, changed=board.changed) as served,
    ):
        served.start()
        story = Story(served, loss.server, LOST_AFTER * workload.seconds, workload)
        deployed = Deployed(deployment, profile, workspace, base)
        with operating(deployed, story) if name == WITH else contextlib.nullcontext():
            outcomes = _send(name, manifest, workload, story)
    return manifest, HealRun(name, outcomes, story.lost_s, story.served_s, tuple(story.said))


def _send(name: str, manifest: DeploymentManifest, workload: RequestTrace, story: Story) -> list[FrameResult]:
    tensors = {
        entry.model: list(
            zip(*(make_tensors(spec, PICTURES, seed=1) for spec in entry.network_inputs), strict=True)
        )
        for entry in manifest.models
        if entry.prepare is None
    }
    target = served_target(manifest, make_pictures(PICTURES, seed=1), tensors)
    with progress_bar(f"{name}: {workload.seconds:.0f} s of load", len(workload.arrivals)) as update:

        def sent(count: int) -> None:
            story.sent(count)
            update("", count, len(workload.arrivals))

        return send_load(target, workload, {}, LoadOptions(slos_us(manifest)), sent)


@dataclass
class Story:
    """What happens in a run, and when. `sent` is called with each frame, by the thread that sends."""

    served: ServedDeployment
    victim: str
    lose_at_s: float
    workload: RequestTrace
    start_s: float | None = None
    lost_s: float = 0.0
    served_s: float | None = None
    said: list[tuple[float, str]] = field(default_factory=list)

    def sent(self, count: int) -> None:
        """So many frames were sent: end the server when it is time to."""
        due_s = self.workload.arrivals[count - 1].due_us / 1e6
        if self.start_s is None:
            self.start_s = time.monotonic() - due_s
        if due_s >= self.lose_at_s and not self.lost_s:
            self.lost_s = self.now_s()
            end_for_good(self.served, self.victim)

    def now_s(self) -> float:
        """Since the start of the load; 0 before."""
        return 0.0 if self.start_s is None else time.monotonic() - self.start_s

    def say(self, text: str) -> None:
        """The loop has decided something."""
        self.said.append((round(self.now_s(), 2), text))

    def progress(self, done: int, made: Sequence[Step]) -> None:
        """A rollout has come so far."""
        if done and self.lost_s and made[done - 1].kind is StepKind.HAND_OVER:
            self.served_s = self.now_s()


def end_for_good(served: ServedDeployment, server: str) -> None:
    """Kill a server, and keep it from being started again."""
    served.hold(server)
    pid = next(status.pid for status in served.statuses if status.name == server)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def operating(deployed: Deployed, story: Story) -> Iterator[None]:
    """The loop, in a thread, as `ppipe operate` runs it."""
    start = what_is_served(deployed)
    stop = threading.Event()
    with Watch(start.manifest) as watch, Planners() as planners:
        loop = OperateLoop(
            deployed, start, OperateSettings(), watch, planners, story.say, progress=story.progress
        )
        thread = threading.Thread(target=loop.run, args=(stop,), name="operate")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
