"""What faults do to a loaded deployment: every fault struck several times at 70 % of capacity.

Workers are emulated; every pool is spread over two servers. Each strike is scored (see fault_score) and
written to the results file, if one is given, so that a run that was cut short goes on where it ended; the
servers' logs then lie beside it. A strike on a starved host counts in all totals, but is none of the repeats:
it is struck again. What processes hold is compared while the deployment is quiet, before the first strike and
after the last.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.helpers.faults.kinds import Fault, all_faults
from benchmarks.helpers.faults.score import Score, summary, totals
from benchmarks.helpers.faults.strike import LOAD, SLO_US, emulated_model, strike
from benchmarks.helpers.kept import Kept
from benchmarks.helpers.machines.leaks import Growth, growth, own_shm_files, snapshot
from benchmarks.helpers.report import main
from model_repo_generator.emulated import write_deployment
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from ppipe.serving.supervisor import ServerStatus
from python_backend.wire.threads import IDLE_S

_VICTIM = "a1"
QUIET_S = IDLE_S + 5.0
"""Until idle threads and quarantines of shared memory have ended, and that was reported."""
_NO_END_S = 1e9
_STRUCK, _STARVED = "strike/", "starved/"


def run(
    repeats: int = 20, seed: int = 1, results: str = "", limit_s: float = _NO_END_S, only: str = ""
) -> Mapping[str, Any]:
    """The figures of this benchmark, over all strikes so far. limit_s: begin no strike after that long.
    only: faults whose names hold this text.
    """
    file = Path(results) if results else None
    kept = Kept(file, {"load": LOAD, "slo_us": SLO_US})
    wanted = list(_wanted(repeats, seed, only))
    left = [each for each in wanted if _key(*each) not in kept]
    if left:
        _strike_all(left, kept, file, time.monotonic() + limit_s)
    struck = [Score(**plain) for plain in kept.named(_STRUCK)]
    scores = struck + [Score(**plain) for plain in kept.named(_STARVED)]
    leaks_found = list(kept.named("leaks/"))
    return {
        "emulated": True,
        "runs": len(struck),
        "runs_left": sum(_key(*each) not in kept for each in wanted),
        **totals(scores),
        "leaked": sum(each["leaked"] for each in leaks_found),
        "leaks": leaks_found,
        "by_fault": {
            name: summary([score for score in scores if score.fault == name])
            for name in dict.fromkeys(score.fault for score in scores)
        },
    }


def _wanted(repeats: int, seed: int, only: str) -> Iterator[tuple[Fault, int]]:
    for turn in range(repeats):
        for index, fault in enumerate(all_faults(_VICTIM)):
            if only in fault.name:
                yield fault, seed + 100 * turn + index


def _key(fault: Fault, seed: int) -> str:
    return f"{_STRUCK}{fault.name}/{seed}"


def _strike_all(left: Sequence[tuple[Fault, int]], kept: Kept, file: Path | None, end_s: float) -> None:
    with tempfile.TemporaryDirectory(prefix="ppipe-faults-") as folder:
        root = Path(folder)
        logs = root / "logs" if file is None else file.with_name(f"{file.name}.logs") / str(time.time_ns())
        write_deployment(root / "repository", [emulated_model()], free_base(38_000, 30), name="faults")
        with ServedDeployment(root / "repository", logs, changed=_say_status) as deployment:
            deployment.start()
            say(asdict(strike(deployment, all_faults(_VICTIM)[-1], seed=0).score(0)) | {"fault": "warm-up"})
            time.sleep(QUIET_S)
            before = snapshot(deployment)
            for fault, seed in left:
                if time.monotonic() > end_s:
                    break
                score = strike(deployment, fault, seed).score(seed)
                key = f"{_STARVED}{time.time_ns()}" if score.starved else _key(fault, seed)
                kept.add(key, asdict(score))
                say(asdict(score))
            deployment.wait_until_serving()
            time.sleep(QUIET_S)
            after = snapshot(deployment)
    found = leaks(growth(before, after), len(own_shm_files()))
    kept.add(f"leaks/{time.time_ns()}", found)
    say(found)


def leaks(more: Growth, left: int) -> dict[str, Any]:
    """What grew, in the processes that no fault killed; `left`: files after the end."""
    return asdict(more) | {"shm_files_at_end": left, "leaked": more.leaked + left}


def say(what: Mapping[str, Any]) -> None:
    """Progress, one line of JSON."""
    print(json.dumps(what), file=sys.stderr, flush=True)


def _say_status(status: ServerStatus) -> None:
    say(
        {"at": time.strftime("%H:%M:%S", time.gmtime()), "server": status.name, "state": status.state.value}
        | {"detail": status.detail[:200]}
    )


if __name__ == "__main__":
    main(
        "Faults under load: what is lost, and how fast it recovers.",
        run,
        repeats=20,
        seed=1,
        results="",
        limit_s=_NO_END_S,
        only="",
    )
