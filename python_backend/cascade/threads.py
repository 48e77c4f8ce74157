"""The few threads that make frames, and what waits for them.

Rules
- A step of the user's may block for ever. It keeps its thread, and the one frame that it works on.
- No more than `most` works wait. What waits belongs to an owner, and goes when that one is over.
- The process ends without a step that blocks: the threads are daemons, and nobody joins them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from python_backend.wire.clock import now_us


@dataclass
class _Running:
    """What a thread does now."""

    name: str
    began_us: int
    was_told: bool = False


_Work = tuple[str, Callable[[], None]]


class MakingThreads:
    """Thread-safe. Works of the owner that came first are done first."""

    def __init__(self, threads: int, most: int, long_us: int, log: Callable[[str], None]) -> None:
        """long_us: a work that has run for so long is told of, once, when the next one comes."""
        self._count = threads
        self._most = most
        self._long_us = long_us
        self._log = log
        self._waiting: OrderedDict[Hashable, deque[_Work]] = OrderedDict()
        self._waiting_count = 0
        self._running: dict[int, _Running] = {}
        self._closing = False
        self._wake = threading.Condition()
        for number in range(threads):
            threading.Thread(target=self._run, args=(number,), name=f"making_{number}", daemon=True).start()

    def put(self, owner: Hashable, name: str, work: Callable[[], None]) -> bool:
        """Whether it will be done: False where too much waits. name: as the log calls it."""
        with self._wake:
            late = self._late()
            taken = not self._closing and self._waiting_count < self._most
            if taken:
                self._waiting.setdefault(owner, deque()).append((name, work))
                self._waiting_count += 1
                self._wake.notify()
        for text in late:
            self._log(text)
        return taken

    def forget(self, owner: Hashable) -> None:
        """Nothing that waits for this one is done any more."""
        with self._wake:
            self._waiting_count -= len(self._waiting.pop(owner, ()))

    def waiting(self) -> int:
        """How many works have not begun."""
        with self._wake:
            return self._waiting_count

    def close(self) -> None:
        """Begin nothing more."""
        with self._wake:
            self._closing = True
            self._waiting.clear()
            self._waiting_count = 0
            self._wake.notify_all()

    def _late(self) -> list[str]:
        now, found = now_us(), []
        for each in self._running.values():
            ran_us = now - each.began_us
            if ran_us >= self._long_us and not each.was_told:
                each.was_told = True
                found.append(
                    f"{each.name} has run for {ran_us // 1000} ms, as long as the SLO or longer; it keeps "
                    f"one of {self._count} threads until it ends"
                )
        return found

    def _run(self, number: int) -> None:
        while self._do_next(number):
            pass

    def _do_next(self, number: int) -> bool:
        """One work; whether there may be more. Of its own, so that a thread that waits holds no work."""
        with self._wake:
            self._wake.wait_for(lambda: self._closing or self._waiting)
            if self._closing:
                return False
            name, work = self._pop()
            self._running[number] = _Running(name, now_us())
        try:
            work()
        except Exception as error:
            self._log(f"{name}: {type(error).__name__}: {error}")
        finally:
            with self._wake:
                del self._running[number]
        return True

    def _pop(self) -> _Work:
        owner, works = next(iter(self._waiting.items()))
        work = works.popleft()
        self._waiting_count -= 1
        if not works:
            del self._waiting[owner]
        return work
