"""What every executor asks of a program, whatever runs it: its files, checked, and the sizes to run first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from planner import serial
from planner.manifest import StageProgram
from planner.profile import ProgramFormat
from planner.programs import ProgramList, is_list
from python_backend.stage.executors.errors import ProgramError

_EACH_SIZE_UP_TO = 16


def format_of(program: StageProgram, path: Path) -> ProgramFormat:
    """What kind of program lies at `path`, a list of blocks' or a file. Raises ProgramError."""
    if is_list(program.program):
        return _list(program, path).format
    is_onnx = program.program.endswith(f".{ProgramFormat.ONNX.value}")
    return ProgramFormat.ONNX if is_onnx else ProgramFormat.TORCH


def files_of(program: StageProgram, path: Path) -> Iterator[bytes]:
    """The content of each file that the stage joins, first block first, read when it is asked for.

    Raises ProgramError for a file that is missing or not the plan's.
    """
    if not is_list(program.program):
        yield _checked(path, program.program_sha256)
        return
    blocks = _list(program, path).blocks
    if not 0 <= program.first_block < program.past_block <= len(blocks):
        raise ProgramError(
            f"{path} lists {len(blocks)} blocks, and the stage runs [{program.first_block}, "
            f"{program.past_block}); generate the repository again"
        )
    for block in blocks[program.first_block : program.past_block]:
        yield _checked(path.parent / Path(block.file).name, block.sha256)


def warm_sizes(largest: int, padded: bool = False) -> set[int]:
    """Batch sizes to run before serving: each one, or of many (or where others are padded) powers of two."""
    if largest <= _EACH_SIZE_UP_TO and not padded:
        return set(range(1, largest + 1))
    return {largest} | {1 << power for power in range(largest.bit_length())}


def _list(program: StageProgram, path: Path) -> ProgramList:
    content = _checked(path, program.program_sha256)
    try:
        return serial.loads(ProgramList, content.decode(), str(path))
    except (UnicodeDecodeError, serial.FormatError) as error:
        raise ProgramError(f"{path}: no list of programs: {error}; generate the repository again") from error


def _checked(path: Path, sha256: str) -> bytes:
    """The file's content; '' takes any. Raises ProgramError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ProgramError(f"{path}: {error.strerror or error}; generate the repository again") from error
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ProgramError(
            f"{path} is not the program of this plan (its SHA-256 differs from the manifest's)"
        )
    return content
