"""Does for a server what a rollout asks of it, through a folder that both can reach: the fleet's folder.

    <fleet>/wanted/<server>.json          {"number": 3, "models": [...]}, written by who rolls out
    <fleet>/table.json                    for the entry's dispatchers (planner.revision), written by the same
    <fleet>/there/<group>/<server>.json   {"number": 3, "models": [...], "processes": [...]}, written here
    <fleet>/there/entry/                  written by the entry's agent: its dispatchers' answers, and `run`,
                                          the name of this run of the entry server

Rules
- Standard library only: this runs in containers too, in whatever Python the image has.
- Nothing of the folder is run: a model is loaded from this host's own repository, by its name there.
- A folder that others than this user may write in is not read, nor one of its folders. It is held open while
  it is looked at, so that what was checked is what is read, whatever its name leads to meanwhile.
- Only the folder of the own group is written in: nobody else's server can be asked from here, nor its state
  be told.
- What was asked before this began is not done: a server that starts has what deployment.json says. A table is
  for one run of the entry, whose name it has.
- The entry's agent takes tables over into its dispatchers' own folder, and their answers back. The first
  entry that starts begins a run without a table; one that joins others takes the table that these have.
- Of answers, an entry removes its own alone: others go on by what they have said.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import stat
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

LOOK_S = 0.1
TELL_S, TELL_AT_REST_S = 0.5, 5.0
"""How often it is looked which processes there are: for BUSY_S after something was asked, and else."""
BUSY_S = 120.0
CONNECT_S = 1.0
OTHERS_S = 5.0
"""How long entries are looked for that serve already: one answer that is late begins no other run."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Of a model: one folder's name and no more."""
FOLDERS = ("wanted", "there")
TABLE, RUN, ACK = "table.json", "run", ".ack.json"


class Agent:
    """See the module. Used by one thread. models: of the server, ppipe.serving.server_models.ServerModels or
    the like. group: of the server. private: the folder of the dispatchers, where the server is an entry.
    joins: whether other entries serve already. entries: whose dispatchers have that folder, where these are
    more than the server.
    """

    def __init__(
        self,
        fleet: Path,
        server: str,
        models: Any,
        group: str,
        private: Path | None = None,
        joins: bool = False,
        entries: Collection[str] = (),
    ) -> None:
        self._fleet = fleet
        self._models = models
        self._private = private
        self._file = f"{server}.json"
        self._faults: dict[str, str] = {}
        self._mark = models.mark()
        self._told: object = None
        self._told_models: list[str] = []
        self._tell_at_s = self._busy_until_s = 0.0
        self._fault = ""
        self._own = Path("there") / group
        make_folder(fleet, group)
        wanted = fleet / "wanted" / self._file
        self._stamp = _stamp(wanted)
        self._number = _number(wanted)
        self._table_seen: tuple[object, str] | None = None
        """Stamp of the table that was looked at last, and the run that it was looked at in."""
        self._acks: dict[str, object] = {}
        own = fleet / self._own
        if private is not None:
            for path in own.glob(f"*{ACK}"):
                _, at, entry = path.name.removesuffix(ACK).partition("@")
                if not at or entry in (server, *entries):
                    path.unlink(missing_ok=True)  # of a life before this one
            if not (joins and (own / RUN).exists()):
                replace(own / RUN, (private / RUN).read_text(encoding="utf-8"))

    def look(self) -> None:
        """Do what is newly wanted, and say what is there where that has changed. Never raises."""
        try:
            with held(self._fleet, str(self._own)) as fleet:
                self._do(fleet / "wanted" / self._file)
                if self._private is not None:
                    self._pass_on(fleet, self._private)
                self._tell(fleet / self._own / self._file)
            self._fault = ""
        except (OSError, ValueError, KeyError, TypeError) as error:
            if str(error) != self._fault:
                print(f"ppipe: {self._fleet}: {error}", file=sys.stderr)
            self._fault = str(error)

    def follow(self, until: Any) -> None:
        """Look again and again, until `until()`."""
        while not until():
            self.look()
            time.sleep(LOOK_S)

    def _do(self, asked: Path) -> None:
        stamp = _stamp(asked)
        if stamp == self._stamp:
            return
        text = asked.read_text(encoding="utf-8")
        self._stamp = stamp
        wanted = json.loads(text)
        models = {str(name) for name in wanted["models"]}
        for name in models:
            if not NAME.fullmatch(name):
                raise ValueError(f"wanted/{self._file}: {name!r} is no model's name")
        self._number, self._faults, self._mark = int(wanted["number"]), {}, self._models.mark()
        self._busy_until_s, self._tell_at_s = time.monotonic() + BUSY_S, 0.0
        there = set(self._models.models())
        for change, names in ((self._models.remove, there - models), (self._models.add, models - there)):
            for name in sorted(names):
                try:
                    change([name])
                except Exception as error:  # said, for who waits for it
                    self._faults[name] = str(error)
        if self._faults.keys() & there:
            self._stamp = None  # what could not be removed is removed at one of the next looks

    def _pass_on(self, fleet: Path, private: Path) -> None:
        """Tables to the dispatchers, and what they say of them back."""
        table = _stamp(fleet / TABLE)
        if table is not None:
            seen = table, (fleet / self._own / RUN).read_text(encoding="utf-8")
            if seen != self._table_seen:
                text = (fleet / TABLE).read_text(encoding="utf-8")
                if json.loads(text).get("run") == seen[1]:
                    replace(private / TABLE, text)
                self._table_seen = seen  # last: what could not be copied is tried again
        for path in private.glob(f"*{ACK}"):
            if path.name.startswith("."):
                continue  # in the making
            stamp = _stamp(path)
            told = fleet / self._own / path.name
            if stamp != self._acks.get(path.name) or not told.exists():
                replace(told, path.read_text(encoding="utf-8"))
                self._acks[path.name] = stamp

    def _tell(self, report: Path) -> None:
        now_s, models = time.monotonic(), sorted(self._models.models())
        if now_s < self._tell_at_s and models == self._told_models:
            return
        self._told_models = models
        self._tell_at_s = now_s + (TELL_S if now_s < self._busy_until_s else TELL_AT_REST_S)
        there = {
            "number": self._number,
            "models": models,
            "processes": sorted(self._models.processes()),
            "said": list(self._models.said(self._mark)),
            "faults": self._faults,
        }
        if there != self._told or not report.exists():
            replace(report, json.dumps(there))
            self._told = there


def is_there(host: str, port: int) -> bool:
    """Whether a server takes connections."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def others_serve(
    fleet: Path, group: str, addresses: Sequence[tuple[str, int]], within_s: float = OTHERS_S
) -> bool:
    """Whether any of the entries at these addresses serves. It is tried for `within_s` before that is denied,
    where an entry of this group has begun a run there: else there is none to join.
    """
    if not (fleet / "there" / group / RUN).exists():
        return False
    until_s = time.monotonic() + within_s
    while not any(is_there(host, port) for host, port in addresses):
        if not addresses or time.monotonic() > until_s:
            return False
        time.sleep(LOOK_S)
    return True


def make_folder(fleet: Path, *groups: str) -> None:
    """The folder and what is in it, for this user alone. groups: of servers that tell there. Raises
    OSError.
    """
    for folder in (fleet, *(fleet / name for name in FOLDERS), *(fleet / "there" / name for name in groups)):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextlib.contextmanager
def held(fleet: Path, *more: str) -> Iterator[Path]:
    """The folder by a path that stays with it. more: folders in it that are used beside FOLDERS. Raises
    OSError; ValueError where others may write in it or in one of these: who does decides what servers load.
    """
    descriptor = os.open(fleet, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _require_private(os.fstat(descriptor), "it")
        for name in (*FOLDERS, *more):
            with contextlib.suppress(FileNotFoundError):
                _require_private(os.stat(name, dir_fd=descriptor, follow_symlinks=False), f"{name!r} in it")
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _require_private(status: os.stat_result, what: str) -> None:
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ValueError(
            f"{what} is of user {status.st_uid} with mode {status.st_mode & 0o777:o}; expected a folder of "
            f"user {os.geteuid()} that nobody else can write in: nothing is taken from there"
        )


def replace(path: Path, text: str) -> None:
    """Write it in one step, for this user alone."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _number(path: Path) -> int:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["number"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
