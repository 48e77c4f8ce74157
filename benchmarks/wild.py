"""Inputs as people have them, of all kinds: each is taken rightly or refused clearly; none is wrong.

    scripts/benchmarks wild --json                   # everything
    scripts/benchmarks wild --only lint,fleets       # some sections

Sections are the modules benchmarks/wild_<section>.py; helpers/wild/case.py says what they give.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import benchmarks
from benchmarks.helpers.report import main
from benchmarks.helpers.wild.case import Figures, Judgement, Verdict, WildCase, judge

_PREFIX = "wild_"


def sections() -> tuple[str, ...]:
    """Names of all sections, in order."""
    names = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return tuple(sorted(name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX)))


def cases_of(section: str) -> Iterable[WildCase]:
    """The cases of one section."""
    cases: Iterable[WildCase] = importlib.import_module(f"benchmarks.{_PREFIX}{section}").cases()
    return cases


def ask(case: WildCase, folder: Path) -> Judgement:
    """Ask one case in an empty folder. Whatever it raises is a fault of the product."""
    try:
        answer = case.ask(folder)
    except Exception as error:  # a crash of whatever was asked, which is what is looked for
        return Judgement(Verdict.WRONG, f"raised {type(error).__name__}: {error}")
    return judge(case, answer)


def run(only: str = "") -> dict[str, Any]:
    """Ask all cases of the sections named in `only`, separated by commas; of all where it is ''."""
    figures = Figures()
    for section in _chosen(only):
        kinds: dict[str, int] = {}
        for case in cases_of(section):
            with tempfile.TemporaryDirectory(prefix="wild-") as folder:
                judgement = ask(case, Path(folder))
            figures.add(case, judgement)
            kinds[case.kind] = kinds.get(case.kind, 0) + 1
            if judgement.verdict is Verdict.WRONG:
                print(f"wrong: {case.id}: {judgement.why}", file=sys.stderr)
        for kind, count in kinds.items():
            print(f"{section}: {kind}: {count} case{'s' * (count != 1)}", file=sys.stderr)
    return vars(figures)


def _chosen(only: str) -> Sequence[str]:
    there = sections()
    wanted = [name.strip() for name in only.split(",") if name.strip()] or there
    unknown = [name for name in wanted if name not in there]
    if unknown:
        sys.exit(f"wild: there is no section {', '.join(unknown)}; there are {', '.join(there)}")
    return wanted


if __name__ == "__main__":
    main(__doc__ or "", run, only="")
