"""Programs of a split: one file for each block, and the list of them with their digests.

    programs/<model>.<split>.json             ProgramList; deployment.json and place.json have its hash
    programs/<model>.<split>.b<k>.<ending>    block k

Rules
- A block's program computes its operators and nothing else: it takes the values that live before the block
  and gives those that live after it, in order of definition, typed as they are computed.
- How values travel (type of a cut, one number per frame as [1]) is no part of a block's program. A stage
  joins its blocks [first, past) when it loads: what lies between two of them stays a value of one program,
  and conversions stand at the stage's own two ends.
- A name means the same thing in all files of a split: a weight, or a number that follows from shapes, that
  several blocks read has one name, and is there once in what is joined.
- So nothing here depends on a plan, and any plan of the split is served from the same files.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.profile import ProgramFormat

LIST_ENDING = ".json"


@dataclass(frozen=True)
class BlockProgram:
    """The file of one block. `file`: its name, beside the list."""

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class ProgramList:
    """blocks[k]: of block k. `split`: digest of network and cuts, as the profile has it."""

    model: str
    split: str
    format: ProgramFormat
    blocks: tuple[BlockProgram, ...]


def is_list(program: str) -> bool:
    """Whether a stage's `program` is a list of blocks' files; else it is the one file of a whole program."""
    return program.endswith(LIST_ENDING)
