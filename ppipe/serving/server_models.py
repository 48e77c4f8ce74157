"""The models of one server, as a rollout changes them: by the folder that the server polls, where that is on
this host, or by asking the agent of its host through the fleet's folder (container.agent).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from model_repo_generator.kubernetes.container.agent import held
from model_repo_generator.kubernetes.container.agent import replace as replace_text
from ppipe.serving.polled_folder import PolledFolder
from ppipe.serving.processes import stub_folders
from ppipe.serving.server_life import log_errors

_LOG_TAIL = 65_536


class ServerModels(Protocol):
    """See the module. All may raise OSError."""

    def models(self) -> set[str]:
        """What the server is to have."""

    def processes(self) -> set[str]:
        """Models whose Python process lives, those that it is to have no more included."""

    def add(self, names: Iterable[str]) -> None:
        """Have it load these. Raises NoSuchModel."""

    def remove(self, names: Iterable[str]) -> None:
        """Have it unload these."""

    def mark(self) -> int:
        """Where what the server says is now."""

    def said(self, since: int) -> list[str]:
        """Lines of errors that it has said since a mark."""


class HereModels:
    """Of a server of this host."""

    def __init__(self, folder: PolledFolder, log: Path) -> None:
        self._folder = folder
        self._log = log

    def models(self) -> set[str]:
        """See ServerModels."""
        return self._folder.models()

    def processes(self) -> set[str]:
        """See ServerModels."""
        stubs = (Path(folder) for folder in stub_folders())
        return {stub.name for stub in stubs if stub.parent == self._folder.path}

    def add(self, names: Iterable[str]) -> None:
        """See ServerModels."""
        for name in names:
            self._folder.add(name)

    def remove(self, names: Iterable[str]) -> None:
        """See ServerModels."""
        for name in names:
            self._folder.remove(name)

    def mark(self) -> int:
        """See ServerModels."""
        with contextlib.suppress(FileNotFoundError):
            return self._log.stat().st_size
        return 0

    def said(self, since: int) -> list[str]:
        """See ServerModels."""
        with contextlib.suppress(FileNotFoundError), self._log.open("rb") as log:
            log.seek(since)
            return log_errors(log.read(_LOG_TAIL).decode(errors="replace"))
        return []


class AskedModels:
    """Of a server whose host's agent looks at the fleet's folder."""

    def __init__(self, fleet: Path, server: str, group: str) -> None:
        self._fleet = fleet
        self._wanted = fleet / "wanted" / f"{server}.json"
        self._there = fleet / "there" / group / f"{server}.json"

    def models(self) -> set[str]:
        """See ServerModels. What was asked last, if the agent has not seen it yet."""
        wanted, there = _read(self._wanted), self._state()
        last = wanted if wanted.get("number", 0) > there["number"] else there
        return set(last["models"])

    def processes(self) -> set[str]:
        """See ServerModels. Until the agent has said what it found after it was asked last, what its server
        had counts too: a process may have begun since it looked.
        """
        wanted, there = _read(self._wanted), self._state()
        found = set(there["processes"])
        return found | set(there["models"]) if there["number"] < wanted.get("number", 0) else found

    def add(self, names: Iterable[str]) -> None:
        """See ServerModels. What its host does not have is said later (`said`)."""
        self._ask(self.models() | set(names))

    def remove(self, names: Iterable[str]) -> None:
        """See ServerModels."""
        self._ask(self.models() - set(names))

    def mark(self) -> int:
        """See ServerModels. An agent tells what was said since it was last asked for something."""
        return 0

    def said(self, since: int) -> list[str]:
        """See ServerModels."""
        there = self._state()
        if there["number"] < _read(self._wanted).get("number", 0):
            return []
        return [*there["said"], *(f"{name}: {text}" for name, text in there["faults"].items())]

    def _ask(self, models: set[str]) -> None:
        number = 1 + max(_read(self._wanted).get("number", 0), self._state()["number"])
        with held(self._fleet) as fleet:
            wanted = fleet / self._wanted.relative_to(self._fleet)
            replace_text(wanted, json.dumps({"number": number, "models": sorted(models)}))

    def _state(self) -> dict[str, Any]:
        empty = {"number": 0, "models": [], "processes": [], "said": [], "faults": {}}
        return {**empty, **_read(self._there)}


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    return {}
