"""The files of a stage's program: the list of its split, and the blocks that the stage joins.

Blocks that other stages run are no concern of it. What a block holds, the worker that joins it finds out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from model_repo_generator.writing.write import hash_file
from planner import serial
from planner.manifest import StageProgram
from planner.programs import ProgramList, is_list


def faults_of(program: StageProgram, root: Path) -> Iterator[str]:
    """What is wrong with the files, in sentences. root: the manifest's folder."""
    if not program.program:
        return
    path = root / program.program
    if not path.is_file():
        yield f"{program.program} is not there; no worker starts before it is exported"
    elif program.program_sha256 and hash_file(path) != program.program_sha256:
        yield f"{program.program} is another file than deployment.json was made with; the worker refuses it"
    elif is_list(program.program):
        yield from _blocks(program, path)


def _blocks(program: StageProgram, path: Path) -> Iterator[str]:
    try:
        listed = serial.load(ProgramList, path).blocks
    except (UnicodeDecodeError, serial.FormatError) as error:
        yield f"{program.program} is no list of programs: {error}"
        return
    for block in range(program.first_block, program.past_block):
        if block >= len(listed):
            yield f"{program.program} has no block {block}, which the stage runs"
        elif not (path.parent / listed[block].file).is_file():
            file = Path(program.program).with_name(listed[block].file)
            yield f"{file} is not there; no worker starts before it is exported"
