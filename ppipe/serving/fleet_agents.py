"""The agents of the servers that `ppipe serve` runs here: they do what a rollout made elsewhere asks
(model_repo_generator.kubernetes.container.agent), all in one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from model_repo_generator.kubernetes.container.agent import LOOK_S, Agent
from ppipe.serving.server_models import ServerModels


class FleetAgents:
    """See the module. servers: their models; groups: of each, by its name. entries: those of
    them that are; the first one's agent hands tables on, to the dispatchers of all. tables: their folder.
    joins: whether other entries serve already.
    """

    def __init__(
        self,
        fleet: Path,
        servers: Mapping[str, ServerModels],
        groups: Mapping[str, str],
        entries: Sequence[str],
        tables: Path,
        joins: bool = False,
    ) -> None:
        """Raises OSError."""
        self._agents = [
            Agent(fleet, name, models, groups[name], tables if name in entries[:1] else None, joins, entries)
            for name, models in servers.items()
        ]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)

    def start(self) -> None:
        """Begin to look: first for the table that dispatchers are to begin with."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Once, for all."""
        for agent in self._agents:
            agent.look()
