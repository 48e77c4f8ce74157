"""One benchmark in two checkouts, turn about: the ratio of a figure after to before, with its interval.

A change is judged against the revision before it, in a checkout of its own (`git worktree add --detach FOLDER
REVISION`, then `scripts/setup` there). Each turn runs the benchmark once in either checkout, and the order
changes from turn to turn, so that what the host does meanwhile meets both. The ratio is taken within a turn;
the interval is of the mean of its logarithm over all turns (95 %, Student's t). Processor time per frame is a
better figure for it than wall time, because other programs on the host stretch the latter first.

    scripts/benchmarks paired --base ../before --figure frames_per_cpu_s_mean simulator
    scripts/benchmarks paired --base ../before --figure ms_600kb.grpc hop

A figure is a key of the benchmark's JSON, deeper ones behind dots; of an object all numbers are added up.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_ROOMS = ("benchmarks", "ppipe/benchmarks")
"""Where a revision has its benchmarks."""
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""97.5 % quantiles of Student's t by degrees of freedom, from 1; with more, the last one is a little wide."""


@dataclass(frozen=True)
class Turn:
    """The figure of one run in each checkout."""

    before: float
    after: float

    @property
    def ratio(self) -> float:
        """After over before."""
        return self.after / self.before


class BenchmarkFailed(RuntimeError):
    """A benchmark did not run, or has no such figure."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, return the exit status."""
    arguments = _parser().parse_args(argv)
    base = arguments.base.resolve()
    command = [arguments.benchmark, *arguments.arguments]
    turns: dict[str, list[Turn]] = {figure: [] for figure in arguments.figure}
    for number in range(arguments.turns):
        runs = _one_turn(base, command, base_first=number % 2 == 0)
        for figure, found in turns.items():
            found.append(Turn(*(figure_of(run, figure) for run in runs)))
            said = found[-1]
            line = f"turn {number + 1} {figure}: {said.before:.6g} {said.after:.6g} ratio {said.ratio:.4f}"
            print(line, file=sys.stderr, flush=True)
    print(json.dumps({figure: summary(found) for figure, found in turns.items()}, indent=1))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/benchmarks paired", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--base", type=Path, required=True, help="checkout of the revision before, set up")
    parser.add_argument("--turns", type=int, default=10, help="runs in each checkout (default: 10)")
    parser.add_argument(
        "--figure", action="append", required=True, help="key of the benchmark's JSON; may be given again"
    )
    parser.add_argument("benchmark", help="its name, as for scripts/benchmarks")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="for the benchmark")
    return parser


def _one_turn(base: Path, command: Sequence[str], base_first: bool) -> tuple[Any, Any]:
    """What the benchmark told in `base` and here."""
    told = {folder: _run(folder, command) for folder in ((base, _ROOT) if base_first else (_ROOT, base))}
    return told[base], told[_ROOT]


def _run(checkout: Path, command: Sequence[str]) -> Any:
    """The JSON at the end of the benchmark's output. Raises BenchmarkFailed."""
    name, *arguments = command
    rooms = [room for room in _ROOMS if (checkout / room / f"{name}.py").is_file()]
    if not rooms:
        raise BenchmarkFailed(f"{checkout} has no benchmark {name!r} in {' or '.join(_ROOMS)}")
    module = f"{rooms[0].replace('/', '.')}.{name}"
    done = subprocess.run(
        [checkout / ".venv" / "bin" / "python", "-m", module, *arguments, "--json"],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BenchmarkFailed(f"{' '.join(command)} in {checkout} failed: {done.stderr.strip()[-800:]}")
    lines = done.stdout.strip().splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("{")]
    if not starts:
        raise BenchmarkFailed(f"{' '.join(command)} in {checkout} printed no JSON")
    return json.loads("\n".join(lines[starts[-1] :]))


def figure_of(told: Any, key: str) -> float:
    """The figure at a dotted key; the sum of all numbers below it. Raises BenchmarkFailed."""
    found = told
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            raise BenchmarkFailed(f"no figure {key!r}; there are {', '.join(sorted(told))}")
        found = found[part]
    return _sum(found)


def _sum(found: Any) -> float:
    if isinstance(found, dict):
        return math.fsum(map(_sum, found.values()))
    return float(found)


def summary(turns: Sequence[Turn]) -> dict[str, Any]:
    """Medians, and the mean ratio with its interval; `width`: of the interval, in parts of one."""
    logs = [math.log(turn.ratio) for turn in turns]
    mean = statistics.fmean(logs)
    reach = 0.0
    if len(logs) > 1:
        quantile = _STUDENT[min(len(logs) - 1, len(_STUDENT)) - 1]
        reach = quantile * statistics.stdev(logs) / math.sqrt(len(logs))
    low, high = math.exp(mean - reach), math.exp(mean + reach)
    return {
        "turns": len(turns),
        "before": statistics.median(turn.before for turn in turns),
        "after": statistics.median(turn.after for turn in turns),
        "ratio": round(math.exp(mean), 4),
        "interval": [round(low, 4), round(high, 4)],
        "width": round(high - low, 4),
        "ratios": [round(turn.ratio, 4) for turn in turns],
    }


if __name__ == "__main__":
    sys.exit(main())
