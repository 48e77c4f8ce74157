"""What faults do to a loaded deployment: every fault struck several times at 70 % of capacity.

Workers are emulated; every pool is spread over two servers. Each strike is scored (see fault_strike) and
written to the results file, if one is given, so that a run that was cut short goes on where it ended.
What processes hold is compared while the deployment is quiet, before the first strike and after the last.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ppipe.benchmarks.emulated_deployment import write_deployment
from ppipe.benchmarks.fault_kinds import Fault, all_faults
from ppipe.benchmarks.fault_strike import Score, attainment, emulated_model, strike
from ppipe.benchmarks.leaks import Growth, growth, own_shm_files, snapshot
from ppipe.benchmarks.report import main
from ppipe.launcher import ServedDeployment
from ppipe.ports import free_base
from python_backend.runtime.threads import IDLE_S

_VICTIM = "a1"
QUIET_S = IDLE_S + 5.0
"""Until idle threads and quarantines of slots have ended, and that was reported."""
_NO_END_S = 1e9


def run(repeats: int = 20, seed: int = 1, results: str = "", limit_s: float = _NO_END_S) -> Mapping[str, Any]:
    """The figures of this benchmark, over all strikes so far. limit_s: begin no strike after that long."""
    file = Path(results) if results else None
    record = _read(file)
    left = [each for each in _wanted(repeats, seed) if not _is_done(record, *each)]
    if left:
        _strike_all(left, record, file, time.monotonic() + limit_s)
    scores = [Score(**plain) for plain in record["scores"]]
    return {
        "emulated": True,
        "runs": len(scores),
        "runs_left": len([each for each in _wanted(repeats, seed) if not _is_done(record, *each)]),
        **_totals(scores),
        "leaked": sum(each["leaked"] for each in record["leaks"]),
        "leaks": record["leaks"],
        "by_fault": {name: _summary(scores, name) for name in dict.fromkeys(score.fault for score in scores)},
    }


def _wanted(repeats: int, seed: int) -> Iterator[tuple[Fault, int]]:
    for turn in range(repeats):
        for index, fault in enumerate(all_faults(_VICTIM)):
            yield fault, seed + 100 * turn + index


def _strike_all(
    left: Sequence[tuple[Fault, int]], record: dict[str, Any], file: Path | None, end_s: float
) -> None:
    with tempfile.TemporaryDirectory(prefix="ppipe-faults-") as folder:
        root = Path(folder)
        write_deployment(root / "repository", [emulated_model()], free_base(38_000, 30), name="faults")
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            say(asdict(strike(deployment, all_faults(_VICTIM)[-1], seed=0).score(0)) | {"fault": "warm-up"})
            time.sleep(QUIET_S)
            before = snapshot(deployment)
            for fault, seed in left:
                if time.monotonic() > end_s:
                    break
                score = strike(deployment, fault, seed).score(seed)
                record["scores"].append(asdict(score))
                _write(record, file)
                say(asdict(score))
            time.sleep(QUIET_S)
            after = snapshot(deployment)
    record["leaks"].append(leaks(growth(before, after), len(own_shm_files())))
    say(record["leaks"][-1])
    _write(record, file)


def leaks(more: Growth, left: int) -> dict[str, Any]:
    """What grew, in the processes that no fault killed; `left`: files after the end."""
    return asdict(more) | {"shm_files_at_end": left, "leaked": more.leaked + left}


def _totals(scores: Sequence[Score]) -> dict[str, Any]:
    return {
        "frames": sum(score.frames for score in scores),
        "unanswered": sum(score.unanswered for score in scores),
        "answered_late": sum(score.answered_late for score in scores),
        "wrong": sum(score.wrong for score in scores),
        "duplicate": sum(score.duplicate for score in scores),
        "attainment_others_min": min((score.attainment_others for score in scores), default=None),
        "recovery_s_max": _slowest(scores),
        "never_recovered": sum(score.recovery_s is None for score in scores),
        "attainment_after_min": min((score.attainment_after for score in scores), default=None),
        "outage_s_max": max((score.outage_s for score in scores), default=None),
    }


def _summary(scores: Sequence[Score], name: str) -> dict[str, Any]:
    chosen = [score for score in scores if score.fault == name]
    others = sorted(score.attainment_others for score in chosen)
    return {
        "runs": len(chosen),
        "attainment_others_min": others[0],
        "attainment_others_median": others[len(others) // 2],
        "attainment_all_mean": round(attainment(chosen), 4),
        "outage_s_max": max(score.outage_s for score in chosen),
        "recovery_s_max": _slowest(chosen),
        "never_recovered": sum(score.recovery_s is None for score in chosen),
        "attainment_after_min": min(score.attainment_after for score in chosen),
        "unanswered": sum(score.unanswered for score in chosen),
    }


def _slowest(scores: Sequence[Score]) -> float:
    """Of the recoveries that were seen."""
    return round(max((score.recovery_s for score in scores if score.recovery_s is not None), default=0.0), 2)


def _is_done(record: Mapping[str, Any], fault: Fault, seed: int) -> bool:
    return any(score["fault"] == fault.name and score["seed"] == seed for score in record["scores"])


def _read(file: Path | None) -> dict[str, Any]:
    if file is None or not file.exists():
        return {"scores": [], "leaks": []}
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def _write(record: Mapping[str, Any], file: Path | None) -> None:
    if file is not None:
        new = file.with_name(f"{file.name}.{os.getpid()}")
        new.write_text(json.dumps(record))
        new.replace(file)


def say(what: Mapping[str, Any]) -> None:
    """Progress, one line of JSON."""
    print(json.dumps(what), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(
        "Faults under load: what is lost, and how fast it recovers.",
        run,
        repeats=20,
        seed=1,
        results="",
        limit_s=_NO_END_S,
    )
