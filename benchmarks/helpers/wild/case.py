"""What the benchmark `wild` is made of: an input as people have it, and what is right for it.

Rules
- A provider is a module benchmarks/wild_<section>.py with `cases() -> Iterable[WildCase]`. It may be a
  generator that holds something open, a server say, around the cases that it yields: they are asked in turn.
- `ask` uses what a user uses. What it answers is judged here, so that all sections mean the same by 'clear'.
- A refusal is clear if it is short, names what the case says it must, and shows nothing of our insides.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

LONGEST_REFUSAL = 40
"""Lines. A refusal may list findings, one a line; a wall of text is not clear."""
_INSIDES = re.compile(r"Traceback \(most recent call last\)|^\s+File \".*\", line \d+", re.MULTILINE)
_COMMAND_TIMEOUT_S = 300.0


class Expected(Enum):
    """What is right for an input."""

    TAKEN = "taken"
    REFUSED = "refused"


@dataclass(frozen=True)
class Answer:
    """What became of an input. `fault`: why it is wrong although it was taken, '' where nothing is."""

    taken: bool
    said: str = ""
    fault: str = ""


@dataclass(frozen=True)
class WildCase:
    """`ask` is given an empty folder, makes the input there, hands it to the product, tells what came of it.

    `id` is unique in all sections, `kind` what several cases are examples of. `names`: regular expressions
    that what is said must match, each, whether it is a refusal or not.
    """

    id: str
    kind: str
    expected: Expected
    ask: Callable[[Path], Answer]
    names: tuple[str, ...] = ()


class Verdict(Enum):
    """How a case ended."""

    RIGHT = "right"
    REFUSED_CLEARLY = "refused clearly"
    WRONG = "wrong"


@dataclass(frozen=True)
class Judgement:
    """`why`: '' unless the verdict is WRONG."""

    verdict: Verdict
    why: str = ""


def judge(case: WildCase, answer: Answer) -> Judgement:
    """Whether an answer is what the case calls right."""
    why = _fault(case, answer)
    if why:
        return Judgement(Verdict.WRONG, why)
    return Judgement(Verdict.RIGHT if answer.taken else Verdict.REFUSED_CLEARLY)


def _fault(case: WildCase, answer: Answer) -> str:
    if answer.taken != (case.expected is Expected.TAKEN):
        return f"was {'taken' if answer.taken else 'refused'}: {_short(answer.said)}"
    if answer.fault:
        return answer.fault
    if _INSIDES.search(answer.said):
        return f"shows a traceback: {_short(answer.said)}"
    missing = [name for name in case.names if not re.search(name, answer.said)]
    if missing:
        return f"does not say {', '.join(map(repr, missing))}: {_short(answer.said)}"
    if not answer.taken:
        lines = answer.said.strip().count("\n") + 1
        if not answer.said.strip():
            return "was refused without a word"
        if lines > LONGEST_REFUSAL:
            return f"was refused with {lines} lines"
    return ""


def ppipe(*arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> Answer:
    """Run `ppipe` in a folder as a user does: taken where it ends with 0; what it said is all its output.

    Status 1 and 2 are refusals. Raises CommandFailed for any other status, a crash.
    """
    done = subprocess.run(
        [sys.executable, "-m", "ppipe", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_ROOT), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_COMMAND_TIMEOUT_S,
        check=False,
    )
    if done.returncode not in (0, 1, 2):
        raise CommandFailed(f"ppipe ended with {done.returncode}: {_short(done.stdout)}")
    return Answer(taken=done.returncode == 0, said=done.stdout)


def called(command: Callable[[list[str]], int], *arguments: str) -> Answer:
    """Call a command of ours that takes arguments and gives a status: faster than a process of its own."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = command(list(arguments))
    return Answer(taken=status == 0, said=said.getvalue())


class CommandFailed(Exception):
    """A command ended as no command of ours should."""


_ROOT = Path(__file__).resolve().parents[3]


def _short(text: str, most: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"...{text[-most:]}"


@dataclass
class Figures:
    """Counts over all cases asked so far."""

    cases: int = 0
    right: int = 0
    refused_clearly: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, case: WildCase, judgement: Judgement) -> None:
        """Count one."""
        self.cases += 1
        self.right += judgement.verdict is Verdict.RIGHT
        self.refused_clearly += judgement.verdict is Verdict.REFUSED_CLEARLY
        if judgement.verdict is Verdict.WRONG:
            self.wrong.append(f"{case.id}: {judgement.why}")
