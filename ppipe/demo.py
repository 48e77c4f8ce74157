"""The main job from one end to the other, and what came of it: `ppipe demo`.

Profile, plan, generate, serve, measure; then the same arrivals and frames on two other systems on the same
GPUs: NP, the best plan without pipelines, through the same dispatcher; and plain Triton, the unsplit model on
every GPU that can meet the SLO, with Triton's own batching and a client that takes the servers in turn.

Rules: one workload for all three systems; every answer is compared with the unsplit model's; nothing is left
out of the scores. perf_analyzer, an independent client, checks PPipe's deployment below saturation, because
it ends at the first frame that is declined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import service_pb2

from model_repo_generator.comparison.plain import generate_plain
from model_repo_generator.export import Exporter
from model_repo_generator.generate import generate
from planner.deployment import Deployment
from planner.manifest import DeploymentManifest
from planner.plan import Plan
from ppipe import steps
from ppipe.bench.frames import make_pictures
from ppipe.bench.perf_analyzer import PerfReport, run_perf_analyzer
from ppipe.bench.reference import Reference, make_inputs, make_reference
from ppipe.bench.run import Measured, measure, planned_rates, slos_us
from ppipe.bench.target import SystemUnderTest, plain_target, public_request, served_target
from ppipe.bench.workload import RequestTrace, make_workload, save_workload
from ppipe.console import ServerBoard, err, progress_bar, step
from ppipe.plan_view import plan_table
from ppipe.serving.launcher import ServedDeployment
from ppipe.workspace import Workspace

LOAD = 0.8
PICTURES = 32
PERF_LOAD = 0.6
PERF_SECONDS = 9.0
LEAST_REQUESTS = 540
"""So many frames are sent at least, whatever the planned rate."""

PPIPE, NP, PLAIN = "PPipe", "NP", "plain Triton"


@dataclass(frozen=True)
class DemoOptions:
    """`seconds` None: long enough for LEAST_REQUESTS."""

    seconds: float | None = None
    seed: int = 1


@dataclass(frozen=True)
class System:
    """One of the three: where its files are, and how clients reach it."""

    name: str
    workspace: Workspace
    manifest: DeploymentManifest
    target: SystemUnderTest
    planned_rps: float | None


@dataclass(frozen=True)
class DemoSetup:
    """All that is made before the first server starts. `systems` has PPipe first."""

    systems: tuple[System, ...]
    workload: RequestTrace
    references: dict[str, Reference]
    perf_requests: Sequence[service_pb2.ModelInferRequest]


@dataclass(frozen=True)
class DemoResult:
    """What was measured. `measured` has PPipe first."""

    measured: tuple[Measured, ...]
    perf: PerfReport

    def faults(self) -> list[str]:
        """What must never be: frames without an answer, or with a wrong one."""
        total = self.measured[0].total
        return [
            f"{count} {what}"
            for count, what in (
                (total.unanswered, "frames got no answer at all"),
                (total.mismatched, "answers are not those of their own frame"),
                (total.failed, "frames ended in an error that is no deadline's"),
            )
            if count
        ]

    def summary(self) -> dict[str, float | int]:
        """The last line of `ppipe demo --json`."""
        ppipe, np, plain = self.measured
        return {
            "requests": ppipe.total.requests,
            "unanswered": ppipe.total.unanswered,
            "mismatched": ppipe.total.mismatched,
            "max_abs_error": ppipe.total.max_abs_error,
            "attainment": round(ppipe.total.attainment, 5),
            "goodput_rps": round(ppipe.total.goodput_rps, 3),
            "planned_rps": round(ppipe.planned_rps or 0.0, 3),
            "np_goodput_rps": round(np.total.goodput_rps, 3),
            "plain_triton_goodput_rps": round(plain.total.goodput_rps, 3),
            "perf_analyzer_rps": round(self.perf.throughput_rps, 3),
        }


def run_demo(deployment: Deployment, root: Workspace, base: Path, options: DemoOptions) -> DemoResult:
    """Everything, in order. `base`: folder that relative paths of the deployment file start from."""
    prepared = prepare(deployment, root, base, options)
    measured = []
    perf: PerfReport | None = None
    for system in prepared.systems:
        with (
            step(f"serve: {system.name}"),
            ServerBoard() as board,
            ServedDeployment(
                system.workspace.repository, system.workspace.logs, changed=board.changed
            ) as served,
        ):
            served.start()
            measured.append(_measure(system, prepared))
            if perf is None:
                perf = _cross_check(system, prepared)
    assert perf is not None
    return DemoResult(measured=tuple(measured), perf=perf)


def prepare(deployment: Deployment, root: Workspace, base: Path, options: DemoOptions) -> DemoSetup:
    """Profile, plan and generate for all three systems; make the frames and their right answers."""
    spaces = {name: Workspace(root.root / folder) for name, folder in ((NP, "np"), (PLAIN, "plain"))}
    with step("profile: split the model, time its blocks"):
        profile = steps.run_profile(deployment, root)
    with step("plan: PPipe's, and NP's to compare with"):
        plan = steps.run_plan(deployment, profile, root, "ppipe")
        np_plan = steps.run_plan(deployment, profile, spaces[NP], "np")
    err.print(plan_table(plan))
    with (
        step("generate: export stage programs, write model repositories"),
        Exporter(deployment, profile) as exporter,
    ):
        manifest = generate(deployment, profile, plan, root.repository, base=base, exporter=exporter)
        np_manifest = generate(
            deployment, profile, np_plan, spaces[NP].repository, base=base, exporter=exporter
        )
        plain_manifest = generate_plain(deployment, profile, spaces[PLAIN].repository, exporter=exporter)
    with step("frames: make pictures, and ask the unsplit model about each"):
        pictures = make_pictures(PICTURES, options.seed)
        inputs = {spec.name: make_inputs(spec, pictures) for spec in deployment.models}
        references = {
            spec.name: make_reference(
                spec, manifest.model(spec.name), root.repository, inputs[spec.name], pictures
            )
            for spec in deployment.models
        }
    workload = _workload(plan, options)
    save_workload(workload, root.root / "workload.csv")
    return DemoSetup(
        systems=(
            System(PPIPE, root, manifest, served_target(manifest, pictures, {}), _planned_rps(manifest)),
            System(
                NP,
                spaces[NP],
                np_manifest,
                served_target(np_manifest, pictures, {}),
                _planned_rps(np_manifest),
            ),
            System(PLAIN, spaces[PLAIN], plain_manifest, plain_target(plain_manifest, inputs), None),
        ),
        workload=workload,
        references=references,
        perf_requests=[public_request(manifest.models[0], picture) for picture in pictures],
    )


def _workload(plan: Plan, options: DemoOptions) -> RequestTrace:
    """Every model at LOAD of what PPipe's plan says."""
    rates = {model.model: LOAD * model.throughput_rps for model in plan.models}
    seconds = options.seconds or LEAST_REQUESTS / sum(rates.values())
    return make_workload(rates, seconds=seconds, seed=options.seed, frames=PICTURES)


def _planned_rps(manifest: DeploymentManifest) -> float:
    return sum(planned_rates(manifest).values())


def _measure(system: System, prepared: DemoSetup) -> Measured:
    workload = prepared.workload
    with progress_bar(f"{system.name}: {workload.seconds:.0f} s of load", len(workload.arrivals)) as update:
        return measure(
            system.name,
            system.target,
            workload,
            prepared.references,
            slos_us(system.manifest),
            planned_rps=system.planned_rps,
            progress=lambda sent: update("", sent, len(workload.arrivals)),
        )


def _cross_check(system: System, prepared: DemoSetup) -> PerfReport:
    """perf_analyzer on the first model."""
    entry = system.manifest.models[0]
    rate_rps = PERF_LOAD * entry.served.planned_rps
    err.print(f"  perf_analyzer: {rate_rps:.1f} frames/s for {PERF_SECONDS:.0f} s")
    return run_perf_analyzer(
        model=entry.dispatcher,
        address=system.manifest.entry.grpc_address,
        requests=prepared.perf_requests,
        rate_rps=rate_rps,
        seconds=PERF_SECONDS,
        folder=system.workspace.root,
    )
