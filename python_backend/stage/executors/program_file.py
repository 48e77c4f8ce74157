"""What every executor asks of a program, whatever runs it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from python_backend.stage.executors.errors import ProgramError

_EACH_SIZE_UP_TO = 16


def require_hash(path: Path, sha256: str) -> None:
    """Raises ProgramError unless the file is the plan's; '' takes any."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ProgramError(f"{path}: {error.strerror or error}; generate the repository again") from error
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ProgramError(
            f"{path} is not the program of this plan (its SHA-256 differs from the manifest's)"
        )


def warm_sizes(largest: int, padded: bool = False) -> set[int]:
    """Batch sizes to run before serving: each one, or of many (or where others are padded) powers of two."""
    if largest <= _EACH_SIZE_UP_TO and not padded:
        return set(range(1, largest + 1))
    return {largest} | {1 << power for power in range(largest.bit_length())}
