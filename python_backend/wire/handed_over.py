"""Looks for tables that are handed over (planner.revision) on a thread of its own, and answers them.

What dispatchers and cascades have in common; what a table means to each, they say themselves. A folder that
others may write in is not read: that is looked at before each table.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar

from planner.private_folder import NotPrivate, PrivateFolder
from planner.revision import FOLDER_VARIABLE, TABLE_NAME, Ack, HandOver, read_hand_over, write_ack
from planner.watched import Watched

_LOOK_S: Final = 0.1
"""How often; each look wakes a thread that shares the interpreter with frames."""
_Table = TypeVar("_Table")


class TableRefused(ValueError):
    """A table that cannot be taken; the message names the field, and what would be accepted."""


def revisions_folder() -> PrivateFolder | None:
    """The folder that PPIPE_REVISIONS names; None without the variable. Raises TableRefused where others may
    write in it, or it is no folder.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if not named:
        return None
    try:
        return PrivateFolder(Path(named))
    except NotPrivate as error:
        raise TableRefused(f"{FOLDER_VARIABLE}: {error}") from error


def folder_of_tables(log: Callable[[str], None]) -> PrivateFolder | None:
    """Where tables are handed over; None, and the log says why, where that is nowhere safe."""
    try:
        return revisions_folder()
    except (TableRefused, OSError) as error:
        log(f"no tables are taken: {error}")
        return None


def seen_from(table: HandOver, me: str) -> HandOver:
    """The same table seen from the entry `me`. Raises TableRefused."""
    names = [server.name for server in table.manifest.entries]
    if me not in names:
        raise TableRefused(f"its entries are {', '.join(names)}; this one is {me!r}")
    return replace(table, manifest=table.manifest.seen_from(me))


def require_deployment(found: str, served: str) -> None:
    """Raises TableRefused for a table of another deployment than the one that is served."""
    if found != served:
        raise TableRefused(f"deployment is {found!r}; {served!r} is served here")


def require_same(where: str, takes: str, fields: Iterable[tuple[str, object, object]]) -> None:
    """Raises TableRefused for the first of `fields` (name, what is served, what the table has) that differs:
    clients would notice. where: of the fields in the table. takes: who would take it when loaded anew.
    """
    for name, served, wanted in fields:
        if served != wanted:
            raise TableRefused(
                f"{where}.{name} is {wanted!r:.80} where {served!r:.80} is served; {takes} that is loaded "
                "anew takes it, a running one does not"
            )


def taken_at_start(
    folder: PrivateFolder | None, who: str, take: Callable[[HandOver], _Table], log: Callable[[str], None]
) -> _Table | None:
    """What `take` makes of the table that was handed over last. None where there is none or `take` raises
    ValueError or OSError: `who` then serves by deployment.json.
    """
    try:
        table = None if folder is None else read_hand_over(folder.path)
        return None if table is None else take(table)
    except (ValueError, OSError) as error:
        log(f"{who}: serves by deployment.json: {error}")
        return None


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
            if (number, str(error)) != self.refused:
                self._log(f"a table was not taken: {error}")
            self.refused = (number, str(error))
            if number == 0 and isinstance(error, OSError):
                self._watched.forget()  # it may be as good as any, once it can be read
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
