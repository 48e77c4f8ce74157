"""history: what was done to a deployment, and why."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from planner import serial
from planner.deployment import load_deployment
from ppipe.commands.arguments import DeploymentFile, WorkFolder
from ppipe.console import err, out
from ppipe.rollout.history import History
from ppipe.rollout.text import figures_text
from ppipe.workspace import Workspace


def history(
    deployment_file: DeploymentFile,
    work: WorkFolder = None,
    last: Annotated[int | None, typer.Option(min=1, help="Show so many.", show_default="all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, one line each.")] = False,
) -> None:
    """Show the rollouts of a deployment, with why and with figures before and after, oldest first."""
    deployment = load_deployment(deployment_file)
    entries, faults = History(Workspace.of(deployment.name, work).root).read()
    for fault in faults:
        err.print(f"left out, because it cannot be read: {fault}", markup=False, soft_wrap=True)
    for entry in entries if last is None else entries[-last:]:
        if as_json:
            out.print(json.dumps(serial.to_plain(entry)), soft_wrap=True, markup=False)
        else:
            out.print(figures_text(entry), markup=False, soft_wrap=True)
    if not entries and not faults and not as_json:
        out.print("no rollout yet")
