"""How threads work for each other: a bell that wakes one up, and a crew that runs tasks handed to it, which
is cheaper than an executor with futures that nobody here awaits.

Rules of a crew: threads start when tasks outnumber those that wait for one, up to the limit, and end after
some time without work; a task that raises is reported and ends nothing; close() runs what was handed in
before it and joins every thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

Task = Callable[[], None]
IDLE_S: Final = 10.0
"""A thread that had nothing to do for so long ends."""


class Bell:
    """Wakes up the one thread that waits for it, or the next time that it waits.

    No condition variable: Python's is interpreted, and makes a lock for each wait. No queue:
    SimpleQueue.get() of CPython 3.11 waits for ever when its timeout is over before it begins to wait, which
    alarms that are due in a moment come to.
    """

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> None:
        """Twice is as good as once."""
        try:
            self._silent.release()
        except RuntimeError:  # it has rung, and nobody was woken up yet
            return

    def wait(self, timeout_s: float = -1) -> None:
        """Return when it has rung, or when the time is over; -1: that is never."""
        self._silent.acquire(timeout=timeout_s)


class Crew:
    """Up to `limit` threads named after `name`. `on_error` gets what a task raised."""

    def __init__(
        self, name: str, limit: int, on_error: Callable[[BaseException], None], idle_s: float = IDLE_S
    ) -> None:
        self._name = name
        self._limit = limit
        self._on_error = on_error
        self._idle_s = idle_s
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._started = 0
        self._untaken = 0
        """Tasks that no thread has taken yet."""
        self._free = 0
        """Threads without a task; never fewer than untaken tasks, below the limit."""

    def submit(self, task: Task) -> None:
        """Run `task` on one of the threads, soon. Raises RuntimeError when none can be had."""
        with self._lock:
            self._untaken += 1
            thread = self._new_thread() if self._untaken > self._free else None
        if thread is not None:
            self._start(thread)
        self._tasks.put(task)

    def close(self) -> None:
        """Finish all tasks handed in and end the threads."""
        with self._lock:
            threads = list(self._threads)
        for _ in threads:
            self._tasks.put(None)
        for thread in threads:
            thread.join()

    def _new_thread(self) -> threading.Thread | None:
        if len(self._threads) >= self._limit:
            return None
        thread = threading.Thread(target=self._run, name=f"{self._name}-{self._started}", daemon=True)
        self._started += 1
        self._free += 1
        self._threads.append(thread)
        return thread

    def _start(self, thread: threading.Thread) -> None:
        """A process may be short of threads for a while; those that there are do the task then."""
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._threads.remove(thread)
                self._free -= 1
                if not self._threads:
                    self._untaken -= 1
                    raise

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                task()
            except Exception as error:
                self._on_error(error)
            del task  # or it would hold its tensors until the next one comes
            with self._lock:
                self._free += 1

    def _next(self) -> Task | None:
        """The next task; None when this thread is to end."""
        while True:
            try:
                task = self._tasks.get(timeout=self._idle_s)
            except Empty:
                if self._may_leave():
                    return None
                continue
            if task is not None:
                with self._lock:
                    self._untaken -= 1
                    self._free -= 1
            return task

    def _may_leave(self) -> bool:
        with self._lock:
            if self._free <= self._untaken:
                return False
            self._free -= 1
            self._threads.remove(threading.current_thread())
            return True
