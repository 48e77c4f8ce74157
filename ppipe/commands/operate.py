"""operate: keep a running deployment's plan true, until told to stop."""

from __future__ import annotations

import math
import threading
import time
from datetime import datetime
from typing import Annotated

import typer

from ppipe.commands.arguments import DeploymentFile, FleetFolder, WorkFolder
from ppipe.commands.rollout import deployed_from
from ppipe.commands.serve import wait
from ppipe.console import err, out
from ppipe.operate.looks import Watch
from ppipe.operate.loop import OperateLoop, OperateSettings
from ppipe.operate.planners import Planners
from ppipe.operate.rules import RuleSettings
from ppipe.operate.served import what_is_served
from ppipe.operate.server_health import SilenceSettings
from ppipe.rollout.history import HistoryEntry
from ppipe.rollout.lock import OPERATE_LOCK
from ppipe.rollout.rollout import require_running
from ppipe.rollout.text import figures_text


def operate(
    deployment_file: DeploymentFile,
    work: WorkFolder = None,
    fleet: FleetFolder = None,
    advise: Annotated[bool, typer.Option("--advise", help="Say what would be done, and do nothing.")] = False,
    silent_s: Annotated[float, typer.Option(help="A server is out after so long without an answer.")] = 1.5,
    healthy_s: Annotated[float, typer.Option(help="It is in again after so long with answers.")] = 30.0,
    gain: Annotated[float, typer.Option(help="Roll out for so much more of what comes, as a share.")] = 0.1,
    gain_s: Annotated[float, typer.Option(help="When that has been promised for so long.")] = 4.0,
    at_most_every: Annotated[
        float, typer.Option(help="Seconds between two rollouts; a lost server does not wait for that.")
    ] = 60.0,
    seconds: Annotated[
        float | None, typer.Option(min=0.0, help="Stop after this long.", show_default="when told to")
    ] = None,
) -> None:
    """Watch servers and load of a running deployment; when it would serve clearly more by another plan,
    make that plan, simulate it, and roll it out. What was done and why: ppipe history.
    """
    deployed = deployed_from(deployment_file, work, fleet)
    settings = OperateSettings(
        silence=SilenceSettings(silent_s, healthy_s),
        rules=RuleSettings(gain=gain, gain_s=gain_s, between_s=at_most_every),
        advise=advise,
    )
    require_running(deployed)
    served = what_is_served(deployed)
    stop = threading.Event()
    with (
        deployed.lock("ppipe operate", OPERATE_LOCK),
        Watch(served.manifest) as watch,
        Planners() as planners,
    ):
        operator = OperateLoop(deployed, served, settings, watch, planners, _say, _show)
        failures: list[Exception] = []

        def run() -> None:
            try:
                operator.run(stop)
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=run, name="operate")
        thread.start()
        err.print(f"operating {deployed.deployment.name}, revision {served.manifest.epoch}; Ctrl-C stops it")
        try:
            until_s = math.inf if seconds is None else time.monotonic() + seconds
            while time.monotonic() < until_s and thread.is_alive():
                wait(min(1.0, until_s - time.monotonic()))
        finally:
            stop.set()
            thread.join()
        if failures:
            raise failures[0]


def _say(text: str) -> None:
    err.print(f"{datetime.now():%H:%M:%S} {text}", markup=False, soft_wrap=True)


def _show(entry: HistoryEntry) -> None:
    out.print(figures_text(entry), markup=False, soft_wrap=True)
