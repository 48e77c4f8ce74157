"""What the linter says: one finding per fault, with file, line and field, and what the server would do.

Rules
- What a code means, and so its level, is written once, in codes.py.
- Findings have one order: file, line, code, message. Same repository, same text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Level(Enum):
    """Errors fail a build; warnings do not."""

    ERROR = "error"
    WARNING = "warning"


class Effect(Enum):
    """What a tritonserver (2.51) does with such a model."""

    DIES = "dies"
    """The whole server ends while it loads the model."""
    HANGS = "hangs"
    """Loading never ends, and takes one of the server's loading threads for good."""
    REFUSED = "refused"
    """The model is not loaded."""
    MISBEHAVES = "misbehaves"
    """Accepted without a word, and sure to be wrong."""
    DOUBTFUL = "doubtful"
    """Accepted without a word, and perhaps not what was meant."""

    @property
    def level(self) -> Level:
        """Only what is doubtful is a warning."""
        return Level.WARNING if self is Effect.DOUBTFUL else Level.ERROR

    @property
    def loads(self) -> bool:
        """Whether a model with such a fault is loaded."""
        return self in (Effect.MISBEHAVES, Effect.DOUBTFUL)


@dataclass(frozen=True)
class Finding:
    """One fault. `file` is relative to the linted folder; `line` counts from 1, 0 where there is none.

    `field` is a path in the configuration, such as input[0].dims; '' where no field is at fault.
    """

    level: Level
    code: str
    model: str
    file: str
    line: int
    field: str
    message: str
    effect: Effect = Effect.DOUBTFUL
    source: str = ""
    """Where the rule was read; '' where its effect was seen on a server (releases.SEEN)."""

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "level": self.level.value,
            "code": self.code,
            "model": self.model,
            "file": self.file,
            "line": self.line,
            "field": self.field,
            "message": self.message,
            "effect": self.effect.value,
            "source": self.source,
        }

    def to_text(self) -> str:
        """One line, in the form that editors and CI systems turn into a link."""
        where = f"{self.file}:{self.line}" if self.line else self.file
        field = f"{self.field}: " if self.field else ""
        source = f"; {self.source}" if self.source else ""
        what = f"{self.code}: {self.effect.value}{source}"
        return f"{where}: {self.level.value}: {field}{self.message} [{what}]"


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Sorted, each once."""
    return tuple(sorted(set(findings), key=lambda f: (f.file, f.line, f.code, f.field, f.message)))
