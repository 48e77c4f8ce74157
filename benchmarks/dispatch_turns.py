"""What a frame costs a dispatcher's host in two checkouts whose servers stand side by side.

`scripts/benchmarks paired` starts its benchmark anew for each turn, which then chooses how fast its pool of
emulated workers is. Batches fill otherwise each time, and frames cost otherwise: by 15 % and more. Here both
checkouts serve all the time, with pools of one speed, and windows of load of a few seconds go to one and the
other in turn, in an order that changes: whatever the host does meanwhile meets both. Ratios are taken within
a turn. But each start of servers has a speed of its own for as long as they run, by 1 to 4 %: with --starts
they are started so many times, the turns are shared out, and the interval is of the starts' means. A start
whose servers fail is begun anew, at most MOST_FAILED times, and counted.

With --stages 127.0.0.2 stages are on another host, as far as either revision knows: nothing goes
through shared memory, and what the message carries is covered by a digest since there is one.

    git worktree add --detach ../before REVISION && (cd ../before && scripts/setup)
    scripts/benchmarks dispatch_turns --base ../before --json
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.dispatch import SIZES, look_at_bare
from benchmarks.helpers.report import main
from benchmarks.paired import Turn, summary

KINDS = ("hop", "null")
LOOPBACK = "127.0.0.1"
MOST_FAILED = 3
Windows = tuple[Mapping[str, Any], Mapping[str, Any]]
"""What both checkouts told of one turn, the older one first."""
_ROOT = Path(__file__).parents[1]
_STAND = _ROOT / "benchmarks" / "helpers" / "machines" / "dispatch_stand.py"


class StandFailed(RuntimeError):
    """A checkout's servers did not start, or a window of load failed."""


def run(
    base: str = "", turns: int = 20, starts: int = 1, window: float = 0.5, stages: str = LOOPBACK
) -> Mapping[str, Any]:
    """The figures. base: a checkout of the revision before, set up. window: of load, in parts of what
    `dispatch` sends. stages: address of their server, of loopback. Raises ValueError, StandFailed."""
    if not (Path(base) / "pyproject.toml").is_file():
        raise ValueError(f"--base {base!r}: expected a folder with a checkout of the revision before")
    if turns < 2 or window <= 0:
        raise ValueError(f"--turns {turns}, --window {window:g}: expected 2 or more, and above 0")
    if starts < 1 or turns % starts:
        raise ValueError(f"--starts {starts}: expected 1 or more, of which --turns {turns} is a multiple")
    with tempfile.TemporaryDirectory(prefix="ppipe-dispatch-") as folder:
        latency_us = look_at_bare(Path(folder))
    asked = {"latency_us": latency_us, "stages": stages}
    told: list[dict[str, list[Windows]]] = []
    failed: list[str] = []
    while len(told) < starts:
        print(f"start {len(told) + 1} of {starts}", file=sys.stderr, flush=True)
        try:
            with Stand(Path(base).resolve(), asked) as before, Stand(_ROOT, asked) as after:
                told.append(_turns(before, after, turns // starts, window, stages))
        except StandFailed as error:
            failed.append(str(error))
            if len(failed) > MOST_FAILED:
                raise
            continue
        for figure, windows in told[-1].items():
            print(f"{figure}: {_mean_of(windows).ratio:.4f}", file=sys.stderr, flush=True)
    figures = {figure: _figures([each[figure] for each in told]) for figure in told[0]}
    return {"pool_latency_us": latency_us, "stages": stages, "starts": starts, "failed": failed, **figures}


def _turns(before: Stand, after: Stand, turns: int, window: float, stages: str) -> dict[str, list[Windows]]:
    """Of servers that stand, by figure."""
    kinds = KINDS if stages == LOOPBACK else KINDS[:1]
    found: dict[str, list[Windows]] = {}
    for number in range(-1, turns):
        for size, (_, _, requests) in SIZES.items():
            for kind in kinds:
                load = f"{size} {kind} {max(30, round(window * requests))}"
                order = (before, after) if number % 2 else (after, before)
                told = {stand: stand.window(load) for stand in order}
                if number >= 0:  # the first turn warms up
                    figure = f"cpu_us_per_frame_{size}.{kind}"
                    found.setdefault(figure, []).append((told[before], told[after]))
        print(f"turn {number + 1} of {turns}", file=sys.stderr, flush=True)
    return found


def _figures(starts: Sequence[Sequence[Windows]]) -> dict[str, Any]:
    told = summary(list(map(_mean_of, starts)) if len(starts) > 1 else _turns_of(starts[0]))
    told["turns"] = sum(map(len, starts))
    del told["ratios"]
    for when, windows in zip(("before", "after"), zip(*chain(*starts), strict=True), strict=True):
        parts = [window["parts"] for window in windows]
        # A process that took no tick of the clock in a window is not in it.
        told[f"parts_{when}"] = {
            part: round(statistics.median(each.get(part, 0.0) for each in parts))
            for part in sorted(set().union(*parts))
        }
    return told


def _turns_of(windows: Sequence[Windows]) -> list[Turn]:
    return [Turn(before["cpu_us"], after["cpu_us"]) for before, after in windows]


def _mean_of(windows: Sequence[Windows]) -> Turn:
    sides = zip(*map(astuple, _turns_of(windows)), strict=True)
    return Turn(*(statistics.geometric_mean(side) for side in sides))


class Stand:
    """A checkout's dispatchers, in a process of that checkout. Raises StandFailed."""

    def __init__(self, checkout: Path, asked: Mapping[str, Any]) -> None:
        self._checkout = checkout
        self._process = subprocess.Popen(
            [checkout / ".venv" / "bin" / "python", _STAND],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask(json.dumps(asked))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def window(self, load: str) -> dict[str, Any]:
        """One window of load."""
        told: dict[str, Any] = json.loads(self._ask(load))
        return told

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        said = self._process.stdout.readline().strip()
        if not said:
            self._end()
            raise StandFailed(f"the servers of {self._checkout} ended at {line!r}")
        return said

    def _end(self) -> None:
        """Its servers end with its input."""
        with suppress(BrokenPipeError):
            self._process.communicate()


if __name__ == "__main__":
    try:
        main(
            "What a frame costs in two checkouts, side by side.",
            run,
            base="",
            turns=20,
            starts=1,
            window=0.5,
            stages=LOOPBACK,
        )
    except (StandFailed, ValueError) as error:
        sys.exit(f"benchmarks dispatch_turns: {error}")
