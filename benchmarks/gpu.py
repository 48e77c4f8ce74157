"""What exists for GPUs, measured on this machine: one JSON file and one Markdown page of figures.

Rules
- Parts run one after another, each in a process of its own, for at most PART_S; what has ended well is not
  run again unless --again says so, and what is cut short goes on where it was.
- A part that cannot run here (no tritonserver, no MPS, a package that is missing) says why and spoils no
  other.
- The files are written after every part, and small: figures and last lines, no logs.
- --rehearse runs the same parts on a CPU with small networks; the page says so in its title.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.helpers.gpu.page import page
from benchmarks.helpers.kept import Kept

PARTS = ("check", "tests", "executor", "profile", "slices", "handover", "serve")
PART_S = 480
ALL_S = 1500
"""Of all parts together: a part is not begun later."""
_SHOWN = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; 0 when none has failed."""
    parser = argparse.ArgumentParser(
        prog="scripts/gpu", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be given often")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, with small networks")
    parser.add_argument("--again", action="store_true", help="run what has ended well once more")
    parser.add_argument("--out", type=Path, default=Path("gpu-figures"), help="[default: gpu-figures]")
    parser.add_argument("--json", action="store_true", help="the results as the last line, too")
    chosen = parser.parse_args(arguments)
    if not chosen.rehearse and (problem := no_gpu()):
        print(f"scripts/gpu: {problem}; --rehearse runs the same on a CPU", file=sys.stderr)
        return 2
    chosen.out.mkdir(parents=True, exist_ok=True)
    kept = Kept(chosen.out / "gpu.json", {"rehearsal": chosen.rehearse})
    began = time.monotonic()
    wanted = chosen.part or PARTS
    for part in wanted:
        if part in kept and kept[part]["status"] != "failed" and not chosen.again:
            print(f"{part}: {kept[part]['status']} before")
            continue
        if time.monotonic() - began > ALL_S:
            print(f"{part}: not begun, as {ALL_S // 60} minutes are over; run scripts/gpu again")
            continue
        kept.add(part, run_part(part, chosen.rehearse, chosen.out))
        print(_line(part, kept[part]))
        results = {name: kept[name] for name in PARTS if name in kept}
        (chosen.out / "gpu.md").write_text(page(results, chosen.rehearse), encoding="utf-8")
    results = {name: kept[name] for name in PARTS if name in kept}
    if chosen.json:
        print(json.dumps(results))
    return int(any(results[part]["status"] == "failed" for part in wanted if part in results))


def _line(part: str, result: Mapping[str, Any]) -> str:
    return f"{part}: {result['status']}, {result['seconds']:.0f} s {result.get('why', '')}".rstrip()


def no_gpu() -> str:
    """Why there is nothing to measure, or ''."""
    try:
        import torch
    except ImportError:
        return f"{sys.executable} has no torch; set PPIPE_PYTHON to one that has"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU here"
    return ""


def run_part(part: str, rehearse: bool, out: Path, limit_s: float = PART_S) -> Mapping[str, Any]:
    """One part's result: status ok, skipped or failed, seconds, figures or why there are none."""
    command = [sys.executable, "-m", "benchmarks.helpers.gpu.parts", part, "--out", str(out)]
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*command, *(["--rehearse"] if rehearse else [])],
            capture_output=True,
            text=True,
            timeout=limit_s,
            env={**os.environ, "OMP_NUM_THREADS": "1"} if rehearse else None,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _failed(began, f"not done after {limit_s:.0f} s; run it again, it goes on where it was")
    lines = done.stdout.strip().splitlines()
    try:
        said = json.loads(lines[-1]) if done.returncode == 0 and lines else None
    except json.JSONDecodeError:
        said = None
    if said is None:
        return _failed(began, (done.stderr.strip() or done.stdout.strip())[-_SHOWN:])
    return {**said, "seconds": round(time.monotonic() - began, 1)}


def _failed(began: float, why: str) -> Mapping[str, Any]:
    return {"status": "failed", "why": why, "seconds": round(time.monotonic() - began, 1)}


if __name__ == "__main__":
    sys.exit(main())
