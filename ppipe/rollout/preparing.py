"""What a plan needs, put into the repository of a deployment that runs, before it is rolled out.

Rules
- All that can be refused is refused before anything is written; what is added is harmless without a table
  that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from model_repo_generator import naming
from model_repo_generator.export import Exporter, hashes, planned_programs
from model_repo_generator.generate import placed, render_once
from model_repo_generator.writing.grow import grow
from model_repo_generator.writing.write import Content, FileCopy, WrittenFile, read_listing
from planner.manifest import DeploymentManifest
from planner.plan import Plan
from planner.rollout.check import RolloutFault, check_rollout
from planner.rollout.fleet import Situation
from ppipe.rollout.deployed import Deployed
from ppipe.rollout.revisions import fleet_revision, served_manifest, with_idle_servers

UNNUMBERED = 1
"""The number of a revision that is not kept yet; it is in no name and no worker's file."""


def prepare(deployed: Deployed, plan: Plan, number: int) -> DeploymentManifest:
    """Give the repository what the plan needs, and keep it as revision `number`. Raises PlanFault,
    RolloutFault, WriteFault, ExportFault.
    """
    plan = placed(plan, deployed.deployment, deployed.profile)
    manifest = replace(make_ready(deployed, plan), epoch=number)
    deployed.kept.keep(manifest, plan)
    return manifest


def make_ready(deployed: Deployed, plan: Plan) -> DeploymentManifest:
    """Give the repository what the plan needs; the manifest, which has no number yet. Raises as prepare."""
    plan = placed(plan, deployed.deployment, deployed.profile)
    served = served_manifest(deployed.repository)
    _require_entries(deployed, served)
    with Exporter(deployed.deployment, deployed.profile) as exporter:
        listed = _listed(deployed.repository)
        programs = _programs(deployed, plan, listed, exporter)
        known = {path: file.sha256 for path, file in listed.items()}
        rendered = render_once(
            deployed.deployment,
            deployed.profile,
            plan,
            epoch=UNNUMBERED,
            base=deployed.base,
            program_hashes={**known, **hashes(programs)},
        )
        cluster = deployed.deployment.to_cluster()
        wanted = fleet_revision(rendered.manifest, rendered.files.get, deployed.profile, cluster)
        check_rollout(deployed.revision(served), wanted, Situation({}, frozenset(), wanted.workers))
        files: dict[str, Content] = {
            path: text for path, text in rendered.files.items() if _is_of_a_stage(path)
        }
        files.update({path: FileCopy(file) for path, file in programs.items()})
        grow(deployed.repository, files)
    return with_idle_servers(rendered.manifest, served, deployed.repository)


def _require_entries(deployed: Deployed, served: DeploymentManifest) -> None:
    """Raises RolloutFault where the file has other entries than those that run."""
    running = [server.name for server in served.entries]
    wanted = [entry.name for entry in deployed.deployment.to_cluster().entries]
    if running != wanted:
        raise RolloutFault(
            f"cluster.entries: the file has {', '.join(wanted)}, and {', '.join(running)} run; a rollout "
            "changes where models run, not where their frames come in: generate and serve anew"
        )


def _programs(
    deployed: Deployed, plan: Plan, listed: Mapping[str, WrittenFile], exporter: Exporter
) -> Mapping[str, Path]:
    """Those of splits that the repository does not list; any plan of a split needs the same. What is there
    and not listed, as a rollout that was killed leaves it, is taken as it is; the rest is exported.
    """
    wanted = planned_programs(deployed.deployment, deployed.profile, plan)
    unlisted = [each for each in wanted if each.list_path not in listed]
    there = {each: {path: deployed.repository / path for path in each.paths} for each in unlisted}
    whole = [each for each, files in there.items() if all(file.is_file() for file in files.values())]
    found = {path: file for each in whole for path, file in there[each].items()}
    return {**found, **exporter.programs(each for each in unlisted if each not in whole)}


def _listed(repository: Path) -> Mapping[str, WrittenFile]:
    listing = read_listing(repository)
    return {} if listing is None else listing.files


def _is_of_a_stage(path: str) -> bool:
    return path.startswith(f"{naming.GROUPS}/") and not path.startswith(
        f"{naming.group_folder(naming.ENTRY_GROUP)}/"
    )
