"""A crew of threads that run tasks handed to them; cheaper than an executor with futures, which nobody here
awaits.

Rules: threads start when no idle one is left, up to the limit; a task that raises is reported and ends
nothing; close() runs what was handed in before it and joins every thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

Task = Callable[[], None]


class Crew:
    """Up to `limit` threads named after `name`. `on_error` gets what a task raised."""

    def __init__(self, name: str, limit: int, on_error: Callable[[BaseException], None]) -> None:
        self._name = name
        self._limit = limit
        self._on_error = on_error
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def submit(self, task: Task) -> None:
        """Run `task` on one of the threads, soon."""
        if not self._idle.acquire(blocking=False):
            self._grow()
        self._tasks.put(task)

    def close(self) -> None:
        """Finish all tasks handed in and end the threads."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._tasks.put(None)
        for thread in threads:
            thread.join()

    def _grow(self) -> None:
        with self._lock:
            if len(self._threads) >= self._limit:
                return
            thread = threading.Thread(
                target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception as error:
                self._on_error(error)
            del task  # or it would hold its tensors until the next one comes
            self._idle.release()
