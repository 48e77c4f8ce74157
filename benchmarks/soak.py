"""Load and random faults for a long time, and what the processes hold afterwards that they did not before.

The load is light (a share of capacity), so that other work on the host disturbs little. Every few seconds a
fault strikes, anywhere but at the first stage server; processes that none of them ended are compared.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.faults import QUIET_S, leaks, say
from benchmarks.helpers.faults.kinds import all_faults
from benchmarks.helpers.faults.score import Score, totals
from benchmarks.helpers.faults.strike import emulated_model, strike
from benchmarks.helpers.machines.leaks import growth, own_shm_files, snapshot
from benchmarks.helpers.report import main
from model_repo_generator.emulated import write_deployment
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base

_PAUSE_S = 3.0


def run(minutes: float = 10.0, load: float = 0.25, seed: int = 1) -> Mapping[str, Any]:
    """The figures of this benchmark. load: a share of capacity."""
    rng = random.Random(seed)
    scores: list[Score] = []
    with tempfile.TemporaryDirectory(prefix="ppipe-soak-") as folder:
        root = Path(folder)
        manifest = write_deployment(
            root / "repository", [emulated_model()], free_base(38_500, 30), name="soak"
        )
        stages = [server.name for server in manifest.servers]
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            strike(deployment, all_faults(stages[0])[-1], seed, load, after_s=10.0)
            time.sleep(QUIET_S)
            before = snapshot(deployment)
            end_s = time.monotonic() + 60 * minutes
            while time.monotonic() < end_s:
                fault = rng.choice(all_faults(rng.choice(stages[1:])))
                scores.append(strike(deployment, fault, rng.randrange(1 << 30), load).score(len(scores)))
                say(asdict(scores[-1]))
                time.sleep(rng.random() * _PAUSE_S)
            deployment.wait_until_serving()
            time.sleep(QUIET_S)
            after = snapshot(deployment)
        more = leaks(growth(before, after), len(own_shm_files()))
    return {
        "emulated": True,
        "minutes": minutes,
        "strikes": len(scores),
        **totals(scores),
        **more,
    }


if __name__ == "__main__":
    main("Load and random faults for minutes: what is not given back.", run, minutes=10.0, load=0.25, seed=1)
