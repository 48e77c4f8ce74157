"""Was a plan made for what its deployment and profile say now? Names each field that has changed since.

`ppipe plan` leaves the problem that it solved beside its plan, so fields can be compared, not hashes alone.

Rules
- Hosts and ports are no part of the question: a plan does not depend on them.
- What `ppipe plan` takes on its command line (objective, stages, margins) may differ on purpose: it is told,
  and does not make a plan stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from planner import serial
from planner.cluster import Cluster
from planner.problem import Problem
from planner.profile import Profile

_CHOSEN_BY_OPTION = ("objective", "max_stages", "slo_margin", "loss_share", "pipelines_per_class_pair")
_CHOSEN_BY_SEARCH = ("batch_build_factor", "dispersion")
"""By --margin auto, which sets a loss_share."""


@dataclass(frozen=True)
class Changed:
    """One field of deployment or profile. `on_purpose`: an option of `ppipe plan` may explain it."""

    field: str
    planned: str
    now: str
    on_purpose: bool = False

    def to_text(self) -> str:
        """One line."""
        return f"{self.field}: now {self.now}, but the plan was made for {self.planned}"


class StalePlan(ValueError):
    """A plan that was made for something else than deployment and profile say now."""

    def __init__(self, changes: Sequence[Changed]) -> None:
        super().__init__(
            "\n".join(
                [*(change.to_text() for change in changes), "plan again: ppipe plan, then ppipe generate"]
            )
        )


def changed_since(planned: Problem, now: Problem, margins_open: bool = False) -> tuple[Changed, ...]:
    """Every field that differs, in the order of a deployment file. margins_open: the file leaves margins to a
    search, so what a search has set is no difference.
    """
    if margins_open and planned.options.loss_share is not None:
        now = _with_searched(now, planned)
    return (
        *_cluster_changes(planned.cluster, now.cluster),
        *_demand_changes(planned, now),
        *_option_changes(planned, now),
        *_profile_changes(planned.profile, now.profile),
    )


def _with_searched(now: Problem, planned: Problem) -> Problem:
    found = {
        field: getattr(planned.options, field) for field in ("slo_margin", "loss_share", *_CHOSEN_BY_SEARCH)
    }
    margins = {demand.model: demand.slo_margin for demand in planned.demands}
    demands = [replace(each, slo_margin=margins.get(each.model, each.slo_margin)) for each in now.demands]
    return replace(now, options=replace(now.options, **found), demands=tuple(demands))


def _cluster_changes(planned: Cluster, now: Cluster) -> Iterator[Changed]:
    yield from _compare(
        "cluster.gpu_classes",
        {each.name: each for each in planned.gpu_classes},
        {each.name: each for each in now.gpu_classes},
        ("max_slices_per_gpu", "memory_bytes", "executor", "stated"),
    )
    for gpu_class in now.gpu_classes:
        name = gpu_class.name
        before, after = planned.gpu_count(name), now.gpu_count(name)
        if before != after:
            yield Changed(f"cluster.groups: GPUs of class {name}", str(before), str(after))
    yield from _compare(
        "cluster server",
        {each.name: each for each in planned.servers},
        {each.name: each for each in now.servers},
        ("gpu", "gpu_count", "bandwidth_gbps", "cores"),
    )
    yield from _compare(
        "cluster",
        {"entry": planned.entry},
        {"entry": now.entry},
        ("bandwidth_gbps", "client_bandwidth_gbps", "cores"),
    )


def _demand_changes(planned: Problem, now: Problem) -> Iterator[Changed]:
    before = {each.model: each for each in planned.demands}
    after = {each.model: each for each in now.demands}
    yield from _compare("models", before, after, ("weight", "rate_rps", "frame", "answer_bytes"))
    for name in [name for name in after if name in before]:
        if before[name].slo_us != after[name].slo_us:
            was, now_ms = before[name].slo_us / 1000, after[name].slo_us / 1000
            yield Changed(f"models.{name}.slo_ms", f"{was:g}", f"{now_ms:g}")
    for change in _compare("models", before, after, ("slo_margin",)):
        yield _on_purpose(change)


def _option_changes(planned: Problem, now: Problem) -> Iterator[Changed]:
    before, after = serial.to_plain(planned.options), serial.to_plain(now.options)
    for field in after:
        if before[field] != after[field]:
            change = Changed(f"planner.{field}", _shown(before[field]), _shown(after[field]))
            chosen = _CHOSEN_BY_OPTION + (_CHOSEN_BY_SEARCH if planned.options.loss_share is not None else ())
            yield _on_purpose(change) if field in chosen else change


def _profile_changes(planned: Profile, now: Profile) -> Iterator[Changed]:
    before = {each.model: serial.content_hash(each) for each in planned.models}
    for model in now.models:
        hashed = serial.content_hash(model)
        if before.get(model.model) != hashed:
            yield Changed(f"profile of {model.model}", before.get(model.model, "none"), hashed)


def _compare(
    where: str, planned: Mapping[str, Any], now: Mapping[str, Any], fields: tuple[str, ...]
) -> Iterator[Changed]:
    """Fields of records by name. A record that is on one side only is one change."""
    for name in [*planned, *(name for name in now if name not in planned)]:
        if name not in planned or name not in now:
            presence = ("there", "not there") if name in planned else ("not there", "there")
            yield Changed(f"{where}.{name}", *presence)
            continue
        for field in fields:
            before, after = getattr(planned[name], field), getattr(now[name], field)
            if before != after:
                yield Changed(f"{where}.{name}.{field}", _shown(before), _shown(after))


def _on_purpose(change: Changed) -> Changed:
    return Changed(change.field, change.planned, change.now, on_purpose=True)


def _shown(value: Any) -> str:
    plain = serial.to_plain(value)
    return "none" if plain is None else f"{plain:g}" if isinstance(plain, float) else str(plain)
