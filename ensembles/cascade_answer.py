"""Names and shapes of a cascade's answer to one frame.

The first member's outputs have their own names. Of every other member, in the order in which its frames were
made: `<model>.<output>`, one row per frame, zeros where it has no answer; `<model>.of`, from which frame of
the feeding member it came; `<model>.row`, from which row of that one's answer, such as a box; and
`<model>.answered`. `partial` is whether anything is missing, `missing` says what and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.profile import TensorSpec

OF, ROW, ANSWERED = "of", "row", "answered"
PARTIAL, MISSING = "partial", "missing"
_ANY = -1


def joined(model: str, output: str) -> str:
    """The name of a later member's output in the cascade's answer."""
    return f"{model}.{output}"


def cascade_outputs(
    first: Sequence[TensorSpec], later: Sequence[tuple[str, Sequence[TensorSpec]]]
) -> tuple[TensorSpec, ...]:
    """Of a cascade: the first member's outputs, and (model, outputs) of all others."""
    found = [*first]
    for model, outputs in later:
        found += [replace(spec, name=joined(model, spec.name), shape=(_ANY, *spec.shape)) for spec in outputs]
        found += [
            TensorSpec(joined(model, OF), "INT32", (_ANY,)),
            TensorSpec(joined(model, ROW), "INT32", (_ANY,)),
            TensorSpec(joined(model, ANSWERED), "BOOL", (_ANY,)),
        ]
    return (*found, TensorSpec(PARTIAL, "BOOL", (1,)), TensorSpec(MISSING, "BYTES", (_ANY,)))
