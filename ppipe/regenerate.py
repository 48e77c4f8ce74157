"""What a pull request that changes a deployment needs: plan, generate, check, lint, simulate, and tell.

    python -m ppipe.regenerate FOLDER [--check] [--summary FILE] [--report FILE]
                               [--load 0.8] [--attainment 0.95]

FOLDER is kept in git: deployment.yaml, profile.json, plan.json, repository/; and where it has kubernetes.yaml
(options of ppipe kubernetes), kubernetes/ too.

Rules
- The plan is made anew only when deployment or profile ask for something else than it was made for: a plan
  that somebody chose, with options of `ppipe plan`, stays. Hosts, ports and what dispatchers do with streams
  ask for no other plan.
- With --check nothing in FOLDER changes; what would change is status 1.
- The summary is Markdown: a table of what becomes of each Triton model, lint's findings, attainment.
- Status 0: all well; 1: a finding of lint, an attainment too low, a difference with --check, or a fault.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model_repo_generator.checking.diff import compare, format_table, load_units
from model_repo_generator.checking.on_disk import check, format_differences
from model_repo_generator.generate import generate, placed, serving_tables
from model_repo_generator.kubernetes import load_options, render_bundle
from model_repo_generator.lint.engine import Context, lint
from model_repo_generator.lint.finding import Finding, Level
from model_repo_generator.writing.write import LISTING, write
from planner import serial
from planner.deployment import Deployment, load_deployment
from planner.deployment.asked import answers
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.plan import Plan
from planner.profile import Profile
from ppipe.cli import is_the_users
from ppipe.console import err
from ppipe.report.materials import Material, gather
from ppipe.report.page import page_of, render
from ppipe.steps import run_plan_unasked
from ppipe.workspace import Workspace
from python_backend.simulator.capacity import Workload, try_load
from python_backend.simulator.cascades import mean_attainment

POLICY = "adaptive"
WORKLOAD = Workload(seconds=20.0, seeds=(1, 2))
"""Poisson arrivals; long enough to tell 90 from 95 per cent, short enough for a pull request."""
OPTIONS, BUNDLE = "kubernetes.yaml", "kubernetes"


@dataclass(frozen=True)
class Regenerated:
    """What was found. `differences`: '' where FOLDER is what its deployment gives."""

    differences: str
    changes: str
    findings: tuple[Finding, ...]
    attainment: dict[str, float]

    def faults(self, wanted: float) -> list[str]:
        """What should stop a merge, `differences` aside."""
        errors = [each.to_text() for each in self.findings if each.level is Level.ERROR]
        low = [
            f"{model}: attainment {share:.3f} in simulation; at least {wanted} is wanted"
            for model, share in self.attainment.items()
            if share < wanted
        ]
        return [*errors, *low]


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status."""
    options = _parser().parse_args(argv)
    try:
        outcome = (
            _checked(options.folder, options.load, options.report)
            if options.check
            else renew(options.folder, options.load, options.report)
        )
    except Exception as error:
        if not is_the_users(error):
            raise
        print(f"regenerate: error: {error}", file=sys.stderr)
        return 1
    faults = outcome.faults(options.attainment)
    text = summary(outcome, options.folder.name, faults, options.load)
    print(text)
    if options.summary is not None:
        with options.summary.open("a", encoding="utf-8") as file:
            file.write(text)
    if options.check and outcome.differences:
        print(outcome.differences, file=sys.stderr)
    return int(bool(faults) or (options.check and bool(outcome.differences)))


def renew(folder: Path, load: float, report: Path | None = None) -> Regenerated:
    """Bring FOLDER up to date. Raises what planning, generating and reading raise.

    report: where to put a page of it, beside what it was before.
    """
    deployment = load_deployment(folder / "deployment.yaml")
    workspace = Workspace(folder)
    before = gather([folder]) if report is not None and workspace.plan.is_file() else []
    profile = workspace.load_profile()
    plan = current_plan(deployment, profile, workspace)
    old = load_units(workspace.repository) if (workspace.repository / MANIFEST_NAME).is_file() else {}
    listed = (workspace.repository / LISTING).is_file()
    differences = (
        format_differences(check(deployment, profile, plan, workspace.repository, base=folder))
        if listed
        else f"{workspace.repository}: not there yet"
    )
    if differences:
        generate(deployment, profile, plan, workspace.repository, base=folder)
    bundle = _renew_bundle(folder, deployment, plan)
    if report is not None:
        _report(before, gather([folder]), deployment.name, report)
    return Regenerated(
        differences="\n".join(filter(None, (differences, bundle))),
        changes=format_table(tuple(compare(old, load_units(workspace.repository))), markdown=True),
        findings=lint(
            workspace.repository, context=Context(cluster=deployment.to_cluster(), profile=profile)
        ),
        attainment=attained(deployment, profile, plan, load),
    )


def attained(deployment: Deployment, profile: Profile, plan: Plan, load: float) -> dict[str, float]:
    """Attainment in simulation at this share of the planned rates: of every cascade's whole frames, and of
    every model that is in none.
    """
    tables = serving_tables(deployment, profile, plan)
    planned = {cascade.name: cascade.throughput_rps for cascade in plan.cascades}
    cascades = deployment.to_problem(profile).cascades
    inner = {member.model for cascade in cascades for member in cascade.members}
    found = {
        cascade.name: mean_attainment(cascade, tables, planned[cascade.name] * load, WORKLOAD)
        for cascade in cascades
    }
    for name, served in tables.items():
        if name not in inner:
            tried = try_load(served, POLICY, served.planned_rps * load, WORKLOAD, target=0.0)
            found[name] = tried.attainment or 0.0
    return found


def current_plan(deployment: Deployment, profile: Profile, workspace: Workspace) -> Plan:
    """The plan in the folder if it answers what the deployment asks, else a new one, which is put there. A
    plan that promised something is followed by one that does, however long the search takes here.
    """
    problem = deployment.to_problem(profile)
    promised = False
    if workspace.plan.is_file():
        plan = workspace.load_plan()
        promised = any(model.promise is not None for model in plan.models)
        if answers(plan, deployment, problem):
            return placed(plan, deployment, profile)
    made = run_plan_unasked(deployment, profile, workspace, slowly=promised)
    return placed(made, deployment, profile)


def summary(outcome: Regenerated, name: str, faults: Sequence[str], load: float) -> str:
    """Markdown for a pull request."""
    rows = [f"| {model} | {share:.1%} |" for model, share in outcome.attainment.items()]
    lines = [f"- {finding.to_text()}" for finding in outcome.findings]
    return "\n".join(
        [
            f"## {name}",
            "",
            outcome.changes,
            f"Simulated at {load:.0%} of the planned rate:",
            "",
            "| model | within the SLO |",
            "|---|---|",
            *rows,
            "",
            f"Lint: {len(lines) or 'no'} findings.",
            *lines,
            *(["", "**Not to be merged:**", *(f"- {fault}" for fault in faults)] if faults else []),
            "",
        ]
    )


def _renew_bundle(folder: Path, deployment: Deployment, plan: Plan) -> str:
    """Render the Kubernetes bundle where the folder has options for one; what changed, as text."""
    if not (folder / OPTIONS).is_file():
        return ""
    manifest = serial.load(DeploymentManifest, folder / "repository" / MANIFEST_NAME)
    files = render_bundle(manifest, deployment, plan, load_options(folder / OPTIONS))
    target = folder / BUNDLE
    found = {
        path.relative_to(target).as_posix(): path.read_text(encoding="utf-8", errors="replace")
        for path in target.rglob("*")
        if path.is_file() and path.name != LISTING
    }
    changed = sorted(path for path in {*files, *found} if files.get(path) != found.get(path))
    if changed:
        write(files, target)
    return "\n".join(f"{BUNDLE}/{path} differs from the plan" for path in changed)


def _report(before: list[Material], after: list[Material], name: str, path: Path) -> None:
    """The page that a pull request gets: what was in the folder as A, what is there now as B."""
    for lots, label in ((before, "before"), (after, "now")):
        for lot in lots:
            lot.label = label
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(page_of([*before, *after], title=name)), encoding="utf-8")


def _checked(folder: Path, load: float, report: Path | None) -> Regenerated:
    """As renew, on a copy."""
    with tempfile.TemporaryDirectory(prefix="ppipe-regenerate-") as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True, symlinks=True)
        err.print(f"  checking a copy of {folder}")
        return renew(Path(copy), load, report)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ci-regenerate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1 if something would")
    parser.add_argument("--summary", type=Path, help="append the summary to this file")
    parser.add_argument("--report", type=Path, help="write a page of the folder, before and now: FILE.html")
    parser.add_argument("--load", type=float, default=0.8, help="simulated share of the planned rate")
    parser.add_argument("--attainment", type=float, default=0.95, help="least attainment in the simulation")
    return parser


if __name__ == "__main__":
    sys.exit(main())
