"""`ppipe generate`: plan in, model repositories on disk out. Place if need be, export, render, write."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from pathlib import Path

from model_repo_generator.checking.entries import check_entries
from model_repo_generator.checking.fit import PlanFault, check_pipelines, check_placement
from model_repo_generator.export import Exporter, hashes, planned_programs
from model_repo_generator.render import Rendered, render
from model_repo_generator.share import shared
from model_repo_generator.writing.bundle import bundle_files
from model_repo_generator.writing.write import Content, FileCopy, check_ours, write
from planner.cascades.demands import divided_as_planned
from planner.deployment import Deployment
from planner.manifest import DeploymentManifest
from planner.placing import place
from planner.plan import Plan
from planner.profile import Profile, ProgramFormat
from planner.serving import ServedModel
from planner.serving_build import served_model

"""What the repositories were tried with; a server of another version is worth a look at the release notes."""


def generate(
    deployment: Deployment,
    profile: Profile,
    plan: Plan,
    out_dir: Path,
    *,
    epoch: int = 1,
    force: bool = False,
    export: bool = True,
    base: Path = Path(),
    self_contained: bool = False,
    one_folder: bool = False,
    exporter: Exporter | None = None,
) -> DeploymentManifest:
    """Write the repositories of `plan` to `out_dir` and return what deployment.json says.

    base: folder that relative paths of the deployment file start from.
    export: False names the programs and makes none: for a look, not for a server.
    self_contained: with a copy of the run time, so that servers need not have this package (see bundle).
    one_folder: all groups in one (see share).
    exporter: of this deployment, when several plans of it are generated.
    Raises ValueError (PlanFault, NameFault, EntryFault, ExportFault), WriteFault.
    """
    plan = placed(plan, deployment, profile)
    return export_and_write(
        deployment,
        profile,
        plan,
        out_dir,
        lambda program_hashes: render_once(
            deployment,
            profile,
            plan,
            epoch=epoch,
            base=base,
            program_hashes=program_hashes,
            self_contained=self_contained,
            one_folder=one_folder,
        ),
        force=force,
        export=export,
        exporter=exporter,
    )


def export_and_write(
    deployment: Deployment,
    profile: Profile,
    plan: Plan,
    out_dir: Path,
    renderer: Callable[[Mapping[str, str]], Rendered],
    *,
    force: bool,
    export: bool,
    exporter: Exporter | None = None,
) -> DeploymentManifest:
    """`renderer`: SHA-256 by program path -> texts. Faults of any kind show before minutes of export."""
    out_dir = Path(out_dir)
    check_ours(out_dir, force)
    renderer({})
    with contextlib.ExitStack() as stack:
        wanted = planned_programs(deployment, profile, plan) if export else ()
        exporter = exporter or stack.enter_context(Exporter(deployment, profile))
        programs = exporter.programs(wanted)
        rendered = renderer(hashes(programs))
        files: dict[str, Content] = dict(rendered.files)
        files.update({path: FileCopy(file) for path, file in programs.items()})
        write(files, out_dir, force)
    return rendered.manifest


def render_once(
    deployment: Deployment,
    profile: Profile,
    plan: Plan,
    *,
    epoch: int = 1,
    base: Path = Path(),
    program_hashes: Mapping[str, str] | None = None,
    self_contained: bool = False,
    one_folder: bool = False,
) -> Rendered:
    """What `generate` would write but for the programs: label files are read, nothing is written."""
    made = render(
        deployment,
        profile,
        plan,
        serving_tables(deployment, profile, plan),
        epoch=epoch,
        program_hashes=program_hashes,
        labels=read_labels(deployment, base),
        versions=_versions_for(deployment),
        bundle=bundle_files() if self_contained else None,
    )
    return shared(made) if one_folder else made


def _versions_for(deployment: Deployment) -> Mapping[str, str]:
    """What the repository was made with, torch where a program is torch's."""
    uses_torch = any(spec.program.format is ProgramFormat.TORCH for spec in deployment.models)
    found = installed_versions()
    return {name: version for name, version in found.items() if name != "torch" or uses_torch}


def placed(plan: Plan, deployment: Deployment, profile: Profile) -> Plan:
    """The plan with a placement. Raises PlanFault."""
    check_pipelines(deployment, profile, plan)
    if plan.placement is None:
        plan = dataclasses.replace(plan, placement=place(plan, deployment.to_cluster()))
    check_placement(deployment, plan)
    check_entries(deployment, plan)
    return plan


def serving_tables(deployment: Deployment, profile: Profile, plan: Plan) -> Mapping[str, ServedModel]:
    """What each dispatcher must know. Raises PlanFault where plan, profile and cluster do not fit."""
    problem = divided_as_planned(deployment.to_problem(profile), plan)
    try:
        return {
            model.model: served_model(plan, problem, model.model, links="placed") for model in plan.models
        }
    except (ArithmeticError, KeyError, ValueError, IndexError, StopIteration) as error:
        raise PlanFault(f"the plan does not fit its profile or the deployment: {error}") from error


def read_labels(deployment: Deployment, base: Path) -> Mapping[str, tuple[str, ...]]:
    """The lines of each model's label file. Raises PlanFault for a file that cannot be read."""
    labels = {}
    for spec in deployment.models:
        if spec.postprocess is not None and spec.postprocess.labels is not None:
            path = base / spec.postprocess.labels
            try:
                labels[spec.name] = tuple(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
            except (OSError, UnicodeDecodeError) as error:
                raise PlanFault(f"models.{spec.name}.postprocess.labels: {path}: {error}") from error
    return labels


def installed_versions() -> Mapping[str, str]:
    """What a server must match to run the programs: recorded in the manifest, checked when a stage loads.

    Not Triton's release: a fleet may run several, old cards with old ones.
    """
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        # The build tag (+cpu, +cu126) belongs to a machine, not to the program.
        "torch": importlib.metadata.version("torch").partition("+")[0],
    }
