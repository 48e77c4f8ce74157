"""What the loop sees: which servers answer, and what dispatchers count.

Servers are asked for a sign of life all at once, several times a second; the dispatchers' pages, which
cost them more, are read once a second. A server of which every worker is out is as silent as one that does
not answer.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from planner.manifest import DeploymentManifest, ModelEntry
from planner.rollout.fleet import Tables
from ppipe.serving import live_metrics
from ppipe.serving.live_metrics import Look, ModelRow
from ppipe.serving.probe import ModelProber, ProbeVerdict

ANSWER_S = 0.5
PAGE_S = 1.0
_ASKED_AT_ONCE = 16


@dataclass(frozen=True)
class Pages:
    """The dispatchers' pages at one time. frames: that each model has got. rows: since the pages before.
    drift: measured over profiled latency, by (model, GPU class). up: by worker, whether it gets work.
    """

    at_s: float
    frames: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, ModelRow] = field(default_factory=dict)
    drift: Mapping[tuple[str, str], float] = field(default_factory=dict)
    up: Mapping[str, bool] = field(default_factory=dict)


class Watch:
    """Looks at the servers of one deployment. A context."""

    def __init__(self, manifest: DeploymentManifest) -> None:
        self._manifest = manifest
        self._probers = {
            server.name: ModelProber(server.grpc_address, tls=manifest.tls_of(server))
            for server in manifest.servers
        }
        self._crew = ThreadPoolExecutor(_ASKED_AT_ONCE, thread_name_prefix="alive")
        self._before: dict[str, dict[str, Look]] = {}
        """By model and entry, the last page of each."""
        self.pages = Pages(at_s=-PAGE_S)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._crew.shutdown()
        for prober in self._probers.values():
            prober.close()

    @property
    def servers(self) -> tuple[str, ...]:
        """All that are looked at."""
        return tuple(self._probers)

    def answering(self, tables: Tables, now_s: float) -> frozenset[str]:
        """Servers that answer, and of which not every worker is out."""
        if now_s - self.pages.at_s >= PAGE_S:
            self._read(now_s)
        asked = self._crew.map(lambda item: (item[0], _lives(item[1])), self._probers.items())
        alive = {server for server, lives in asked if lives}
        return frozenset(alive - self._without_workers(tables))

    def _without_workers(self, tables: Tables) -> set[str]:
        up: dict[str, list[bool]] = defaultdict(list)
        for table in tables.values():
            for _, worker in table.workers():
                if worker.name in self.pages.up:
                    up[worker.server].append(self.pages.up[worker.name])
        return {server for server, found in up.items() if not any(found)}

    def _read(self, now_s: float) -> None:
        frames, rows = {}, {}
        up: dict[str, bool] = {}
        drift: dict[tuple[str, str], list[float]] = defaultdict(list)
        models = [entry.model for entry in self._manifest.models]
        for model, looks in zip(models, self._crew.map(self._looks_at, self._manifest.models), strict=True):
            if not looks:
                continue
            last = self._before.setdefault(model, {})
            before, now = live_metrics.together(last, looks)
            if now.series:
                rows[model] = live_metrics.model_row(model, before, now)
            last.update(looks)
            # With the last page of an entry that shows none now: its frames have not become fewer.
            frames[model] = live_metrics.frames(last)
            for look in looks.values():
                for worker, value in look.values("ppipe_worker_up", "worker").items():
                    up[worker] = up.get(worker, False) or value > 0
                _add_drift(drift, model, look)
        factors = {key: statistics.median(found) for key, found in drift.items()}
        self.pages = Pages(now_s, frames, rows, factors, up)

    def _looks_at(self, entry: ModelEntry) -> dict[str, Look]:
        """By entry; nothing where none shows a page."""
        try:
            return live_metrics.read_all(self._manifest, entry)
        except OSError:
            return {}


def _lives(prober: ModelProber) -> bool:
    return prober.ask_live(ANSWER_S).verdict is ProbeVerdict.ANSWERS


def _add_drift(drift: dict[tuple[str, str], list[float]], model: str, look: Look) -> None:
    """A page names stages by numbers, which each entry counts anew; what drifts is a GPU class."""
    for labels, value in look.series.get("ppipe_stage_drift", ()):
        drift[model, labels["gpu"]].append(value)
