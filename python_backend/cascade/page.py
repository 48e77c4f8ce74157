"""A cascade's counters as a Prometheus page: http://<entry host>:<metrics port>/metrics over TCP.

Why not Triton's custom metrics: see python_backend.dispatcher.metrics.prometheus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from planner.cascades.served import CascadeEntry
from python_backend.cascade.counts import CascadeCounts, End

PREFIX = "ppipe_cascade_"
COUNTERS = {
    "frames_total": "Frames that arrived.",
    "ended_total": "Frames that ended: complete, partial, declined, superseded by a newer one of their "
    "stream, failed, or gone with their callers.",
    "latency_us_total": "Sum of the latencies of complete frames.",
    "asked_total": "Frames that a member was asked.",
    "answered_total": "Frames that a member answered.",
    "answer_us_total": "Time that a member's answers took.",
    "handed_total": "Answers of which a member's frames were made and sent.",
    "handed_us_total": "Time from these answers until the frames were sent.",
    "missing_total": "Frames of a member that were not made or not answered.",
}
GAUGES = {
    "open_frames": "Frames without an answer.",
    "held_answers": "Answers that wait for those to earlier frames of their streams.",
    "slo_us": "The cascade's SLO.",
    "part_us": "How long after a frame's arrival a member must have answered what came of it.",
}
_OF_MEMBERS = (
    "asked_total",
    "answered_total",
    "answer_us_total",
    "handed_total",
    "handed_us_total",
    "missing_total",
    "part_us",
)
_OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def cascade_families() -> Iterator[tuple[str, str, str]]:
    """(name without prefix, type, description) of all that is exported."""
    for kind, table in (("counter", COUNTERS), ("gauge", GAUGES)):
        for name, text in table.items():
            yield name, kind, text


class CascadePage:
    """Prometheus' collector of one cascade: reads the counters when it is asked. served: the cascade as it is
    served now, held: answers that wait.
    """

    def __init__(
        self, served: Callable[[], CascadeEntry], counts: CascadeCounts, held: Callable[[], int]
    ) -> None:
        self._served = served
        self._counts = counts
        self._held = held

    def make(self, openmetrics: bool = False) -> tuple[bytes, str]:
        """The page and its content type."""
        encode, content_type = choose_encoder(_OPENMETRICS if openmetrics else "")
        return encode(self), content_type

    def collect(self) -> Iterator[Metric]:
        """Everything as it is now."""
        cascade = self._served()
        for name, kind, text in cascade_families():
            metric = Metric(f"{PREFIX}{name.removesuffix('_total')}", text, kind)
            for labels, value in self._series(name, cascade):
                metric.add_sample(f"{PREFIX}{name}", {"cascade": cascade.name, **labels}, value)
            yield metric

    def _series(self, name: str, cascade: CascadeEntry) -> Iterator[tuple[dict[str, str], int]]:
        if name == "open_frames":
            yield {}, self._counts.open_frames()
        elif name == "held_answers":
            yield {}, self._held()
        elif name == "slo_us":
            yield {}, cascade.slo_us
        elif name == "ended_total":
            for end in End:
                yield {"end": end.value}, self._counts.value(name, end.value)
        elif name in _OF_MEMBERS:
            for member in cascade.members:
                value = member.by_us if name == "part_us" else self._counts.value(name, member.model)
                yield {"model": member.model}, value
        else:
            yield {}, self._counts.value(name)
