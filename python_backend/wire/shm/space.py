"""Which bytes of a range are free: places of any size, the first that fits, neighbours joined again.

Frames differ in size, and slots of the largest would take gigabytes. Pure: nothing here knows of files.

Rules: places are multiples of ALIGNMENT, in offset and length; free places are kept in order and never touch.
"""

from __future__ import annotations

from typing import Final

ALIGNMENT: Final = 64


class Space:
    """`size` bytes from 0 on. Not thread-safe."""

    def __init__(self, size: int) -> None:
        self.size: int = size
        self.free: int = size
        """Bytes that nobody has."""
        self._starts: list[int] = [0] if size else []
        self._ends: list[int] = [size] if size else []

    def take(self, size: int) -> int:
        """Offset of a place of at least `size` bytes; -1 when there is none in one piece."""
        wanted = max(ALIGNMENT, aligned(size))
        for index in range(len(self._starts)):
            start = self._starts[index]
            if self._ends[index] - start >= wanted:
                if self._ends[index] - start == wanted:
                    self._starts.pop(index)
                    self._ends.pop(index)
                else:
                    self._starts[index] = start + wanted
                self.free -= wanted
                return start
        return -1

    def give_back(self, offset: int, size: int) -> None:
        """A place that take(size) gave."""
        end = offset + max(ALIGNMENT, aligned(size))
        self.free += end - offset
        index = 0
        while index < len(self._starts) and self._starts[index] < offset:
            index += 1
        before = index > 0 and self._ends[index - 1] == offset
        after = index < len(self._starts) and self._starts[index] == end
        if before and after:
            self._ends[index - 1] = self._ends[index]
            self._starts.pop(index)
            self._ends.pop(index)
        elif before:
            self._ends[index - 1] = end
        elif after:
            self._starts[index] = offset
        else:
            self._starts.insert(index, offset)
            self._ends.insert(index, end)


def aligned(position: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-position // ALIGNMENT) * ALIGNMENT
