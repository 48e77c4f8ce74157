"""Looks for tables that are handed over (planner.revision) on a thread of its own, and answers them.

What dispatchers and cascades have in common; what a table means to each, they say themselves. A folder that
others may write in is not read: that is looked at before each table.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Final

from planner.private_folder import PrivateFolder
from planner.revision import TABLE_NAME, Ack, HandOver, read_hand_over, write_ack
from planner.watched import Watched

_LOOK_S: Final = 0.1


class HandedOver:
    """Calls `look` again and again until closed; what it raises is logged. number: of the table that is
    served at the start.
    """

    def __init__(
        self,
        folder: PrivateFolder,
        number: int,
        look: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        self.run: Final = secrets.token_hex(8)
        """Of this start, for acks."""
        self.refused: tuple[int, str] = (0, "")
        """The number of the table that was refused last, and why."""
        self._folder = folder
        self._look = look
        self._log = log
        self._watched = Watched(folder.path / TABLE_NAME)
        self._seen = number
        """The highest number that was taken or refused."""
        self._said: Ack | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="tables", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._folder.close()

    def take_new(self, take: Callable[[HandOver], None]) -> None:
        """Have `take` take a table that has come since. It is refused for the ValueError, OSError or KeyError
        that this raises.
        """
        if not self._watched.changed():
            return
        number = 0
        try:
            self._folder.check()
            table = read_hand_over(self._folder.path)
            if table is None or table.number <= self._seen:
                return
            number = table.number
            take(table)
            self.refused = (0, "")
        except (ValueError, OSError, KeyError) as error:
            self.refused = (number, str(error))
            self._log(f"a table was not taken: {error}")
        self._seen = max(self._seen, number)

    def say(self, ack: Ack) -> None:
        """Write it where it is another than the last one. Raises OSError."""
        if ack != self._said:
            write_ack(self._folder.path, ack)
            self._said = ack

    def _watch(self) -> None:
        while True:
            try:
                self._look()
            except Exception as error:  # the folder may be away for a while
                self._log(f"tables are not looked at: {error!r}")
            if self._closing.wait(_LOOK_S):
                return
