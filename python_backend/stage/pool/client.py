"""A stage worker's end of the pool: frames go out as jobs, and what came of each is told to its batch.

Rules
- A process that dies over a frame costs that frame one more try. A frame that does it twice is its sender's
  fault.
- A frame that nobody took, since the pool ended, is given to a new pool, a few times; then its batch fails.
- What can be sent is bounded: the rest waits here, in order.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable

from python_backend.stage.pool.connecting import Connection, NoPool, connect
from python_backend.stage.pool.jobs import FrameJob, RecordState, read_record, write_record
from python_backend.stage.pool.slots import Slot

Ended = Callable[[RecordState, str], None]
"""What came of a frame: DONE, FAULT with what is wrong, LATE, or WAITING with why nobody could do it."""
DEADLY = "an image that ended its decoder twice"
_TRIES = 2
"""Of a frame that ends the process that decodes it."""
_POOLS = 3
"""Of a frame whose pool ends before anybody takes it."""


class Asked:
    """A job and its slot, until it has ended."""

    __slots__ = ("asked_of", "deaths", "ended", "job", "pools", "slot")

    def __init__(self, job: FrameJob, slot: Slot, ended: Ended) -> None:
        self.job = job
        self.slot = slot
        self.ended = ended
        self.deaths = 0
        self.pools = 0
        self.asked_of: Connection | None = None


class PoolClient:
    """Thread-safe. `cores`: processes of the pool if it is started by us. Raises NoPool."""

    def __init__(self, cores: int, work: str, log: Callable[[str], None]) -> None:
        self._cores = cores
        self._work = work
        self._log = log
        self._most = 2 * cores
        """Jobs under way: enough to keep all processes busy."""
        self._connection: Connection | None = connect(cores, work)
        self._unsent: deque[Asked] = deque()
        self._under_way: dict[int, Asked] = {}
        """By the reading end of its pipe."""
        self._lock = threading.Lock()
        self._closing = False
        self._poll = select.epoll()
        self._wake_out, self._wake_in = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll.register(self._wake_out, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="pool", daemon=True)
        self._thread.start()

    def ask(self, job: FrameJob, slot: Slot, ended: Ended) -> None:
        """Have a frame prepared; `ended` is called once, from a thread of ours."""
        with self._lock:
            self._unsent.append(Asked(job, slot, ended))
            refused = self._send_some()
        self._tell(refused)

    def close(self) -> None:
        """End the thread. Frames under way get no answer."""
        if self._closing:
            return
        self._closing = True
        os.write(self._wake_in, b"x")
        self._thread.join()
        self._poll.close()
        for descriptor in (self._wake_out, self._wake_in, *self._under_way):
            os.close(descriptor)
        self._under_way.clear()
        if self._connection is not None:
            self._connection.close()

    def _run(self) -> None:
        while not self._closing:
            for descriptor, _ in self._poll.poll():
                if descriptor != self._wake_out:
                    self._came_back(descriptor)

    def _came_back(self, descriptor: int) -> None:
        with self._lock:
            asked = self._under_way.pop(descriptor)
            os.close(descriptor)
            state, text = read_record(asked.slot.memory, asked.job.record)
            if again := self._try_again(asked, state):
                self._unsent.appendleft(asked)
            elif state is RecordState.TAKEN:
                state, text = RecordState.FAULT, DEADLY
            refused = self._send_some()
        if not again:
            asked.ended(state, text)
        self._tell(refused)

    def _try_again(self, asked: Asked, state: RecordState) -> bool:
        if state is RecordState.TAKEN:
            asked.deaths += 1
            return asked.deaths < _TRIES
        if state is RecordState.WAITING:
            asked.pools += 1
            self._forget(asked.asked_of)
            return asked.pools < _POOLS
        return False

    def _send_some(self) -> list[tuple[Asked, str]]:
        """Send what may be under way; returns what nobody can take. With the lock."""
        while self._unsent and len(self._under_way) < self._most:
            asked = self._unsent.popleft()
            try:
                self._send(asked)
            except (NoPool, OSError) as error:
                if self._try_again(asked, RecordState.WAITING):
                    self._unsent.appendleft(asked)
                    continue
                refused = [(each, str(error)) for each in (asked, *self._unsent)]
                self._unsent.clear()
                return refused
        return []

    def _send(self, asked: Asked) -> None:
        """Raises NoPool, OSError."""
        if self._connection is None:
            self._connection = connect(self._cores, self._work)
        asked.asked_of = self._connection
        write_record(asked.slot.memory, asked.job.record, RecordState.WAITING)
        ending, writing = os.pipe2(os.O_CLOEXEC)
        try:
            socket.send_fds(self._connection.jobs, [asked.job.encode()], [asked.slot.descriptor, writing])
        except BaseException:
            os.close(ending)
            raise
        finally:
            os.close(writing)
        self._under_way[ending] = asked
        self._poll.register(ending, 0)  # that it is closed is always told

    def _forget(self, connection: Connection | None) -> None:
        """A pool that has ended, unless there is another one by now."""
        if connection is not None and connection is self._connection:
            connection.close()
            self._connection = None
            self._log("the processes that prepare frames have ended; they are started again")

    def _tell(self, refused: list[tuple[Asked, str]]) -> None:
        for asked, text in refused:
            asked.ended(RecordState.WAITING, text)
