"""Numbers with their nouns, for tables and pictures."""

from __future__ import annotations


def counted(number: int, noun: str, several: str = "") -> str:
    """'1 GPU', '4 GPUs'. several: the plural where it is not the noun with an s."""
    return f"{number} {noun if number == 1 else several or noun + 's'}"
