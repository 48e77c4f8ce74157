"""What the entry servers carry: rows of the plan that bound all models' rates together.

Notation   m models; e rows of the entry; X_m frames/s of m; F_m, A_m bits of a frame and of its answer; h_m
           time of the entry's cores per frame; B, C the entry's link and its link to clients; H its cores
Link out   sum_m (F_m + A_m) X_m <= B      frames to first stages, answers to clients
Link in    sum_m (F_m + A_m) X_m <= B      frames from clients, answers from last stages
           with a link to clients of their own: F_m out, A_m in on B; F_m in, A_m out on C
           frames that are made at the entry, of another model's answers, do not come in from clients
Cores      sum_m h_m X_m <= H

Of N entries each has such rows. Clients bring 1 / N of a model's frames to each, and o_m of its throughput is
the entry's own (its shards; 1 / N until there are shards). What comes and is not its own goes on to another
entry, max(0, 1 / N - o_m), and comes from others where it owns more, max(0, o_m - 1 / N). So per frame of m

Link out   o_m F + 1 / N A + away F + from A      Link in   1 / N F + o_m A + from F + away A
           with a link to clients: 1 / N F in and 1 / N A out are on C
Cores      h_m (1 / N + from)

Room       frames come at random and must not wait long for a link: of B and C counts the share that can be
           used (planner.usable), with t and V of the models' mix, whose rates are as their weights; the model
           that may wait least decides, since all wait alike

A row does not depend on pipelines. So it takes part in the relaxation and in the MILP as one row on z (or on
the models' shares u_m of it), and for given rates it is a condition.

Rules
- Links count what they carry (Cluster.carried_share), prices and capacities are of a link as it is sold.
- Every server counts as a host of its own: what shares one with the entry is planned as if it did not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.cluster import Cluster, EntryServer
from planner.plan import EntryUse, ModelPlan
from planner.problem import Demand, PlanOptions, Problem, wanted_of
from planner.rates import FrameEnds, ends_of, late_share, link_wait_us
from planner.usable import usable_of_link


@dataclass(frozen=True)
class EntryRow:
    """sum_m per_frame[m] X_m <= capacity. carried: the part of a unit that is of use; usable: of what is
    carried, the part that leaves room for frames that wait.
    """

    name: str
    resource: str
    unit: str
    capacity: float
    per_frame: tuple[float, ...]
    carried: float = 1.0
    server: str = ""
    """Which entry, where there are several."""
    usable: float = 1.0

    def used(self, rates: Sequence[float]) -> float:
        """What these rates of all models take."""
        return math.fsum(need * rate for need, rate in zip(self.per_frame, rates, strict=True))

    def most_factor(self, rates: Sequence[float]) -> float:
        """The largest z for which z times these rates fit."""
        used = self.used(rates)
        return self.capacity / used if used > 0 else math.inf


def entry_rows(problem: Problem, owned: Mapping[str, Sequence[float]] | None = None) -> tuple[EntryRow, ...]:
    """Of the problem's models, in the demands' order; none where the way in and out is not counted. owned: by
    entry, the share of each model's throughput that it has; None: an equal part of all.
    """
    found = [
        ends_of(problem.profile.model(demand.model), demand, problem.options) for demand in problem.demands
    ]
    ends = [one for one in found if one is not None]
    if not ends:
        return ()
    return tuple(
        _with_room(row, problem.demands, problem.options) for row in _whole_rows(problem, ends, owned)
    )


def _whole_rows(
    problem: Problem, ends: Sequence[FrameEnds], owned: Mapping[str, Sequence[float]] | None
) -> tuple[EntryRow, ...]:
    """As if all of a link could be used."""
    entries = problem.cluster.entries
    if len(entries) == 1:
        return tuple(_rows(problem.cluster, entries[0], "", [_ALL] * len(ends), ends))
    even = [1 / len(entries)] * len(ends)
    return tuple(
        row
        for entry in entries
        for row in _rows(
            problem.cluster,
            entry,
            entry.name,
            [_Part.of(share, len(entries)) for share in (even if owned is None else owned[entry.name])],
            ends,
        )
    )


@dataclass(frozen=True)
class _Part:
    """What passes one entry of one frame/s of a model: from clients, its own, passed on, got from others."""

    come: float
    own: float
    away: float
    got: float

    @classmethod
    def of(cls, own: float, entries: int) -> _Part:
        come = 1 / entries
        return cls(come=come, own=own, away=max(0.0, come - own), got=max(0.0, own - come))


_ALL = _Part(come=1.0, own=1.0, away=0.0, got=0.0)


def _rows(
    cluster: Cluster, entry: EntryServer, server: str, parts: Sequence[_Part], ends: Sequence[FrameEnds]
) -> Iterator[EntryRow]:
    """server: the entry's name where there are several; ''."""
    carried = cluster.carried_share
    frames = [one.frame_bytes * 8 / 1e9 for one in ends]
    answers = [one.answer_bytes * 8 / 1e9 for one in ends]

    def link(
        direction: str, resource: str, gbps: float | None, per_frame: tuple[float, ...]
    ) -> Iterator[EntryRow]:
        if gbps is not None:
            name = f"{server} {resource} {direction}".strip()
            yield EntryRow(name, resource, "Gbit/s", gbps * carried, per_frame, carried, server)

    every = list(zip(parts, frames, answers, strict=True))
    to_fleet = [(part.own + part.away) * f + part.got * a for part, f, a in every]
    from_fleet = [(part.own + part.away) * a + part.got * f for part, f, a in every]
    to_clients = [part.come * a for part, _, a in every]
    from_clients = [
        part.come * f if one.from_clients else 0.0 for one, (part, f, _) in zip(ends, every, strict=True)
    ]
    if entry.client_bandwidth_gbps is None:
        yield from link("out", "link", entry.bandwidth_gbps, _added(to_fleet, to_clients))
        yield from link("in", "link", entry.bandwidth_gbps, _added(from_clients, from_fleet))
    else:
        yield from link("out", "link", entry.bandwidth_gbps, tuple(to_fleet))
        yield from link("in", "link", entry.bandwidth_gbps, tuple(from_fleet))
        yield from link("out", "client link", entry.client_bandwidth_gbps, tuple(to_clients))
        yield from link("in", "client link", entry.client_bandwidth_gbps, tuple(from_clients))
    if entry.cores is not None and any(one.entry_us for one in ends):
        busy = tuple(
            one.entry_us / 1e6 * (part.come + part.got) for one, part in zip(ends, parts, strict=True)
        )
        yield EntryRow(f"{server} cores".strip(), "cores", "core", float(entry.cores), busy, server=server)


def _added(one: Sequence[float], other: Sequence[float]) -> tuple[float, ...]:
    return tuple(map(sum, zip(one, other, strict=True)))


def _with_room(row: EntryRow, demands: Sequence[Demand], options: PlanOptions) -> EntryRow:
    """The row with no more of a link than random arrivals can use."""
    if row.unit != "Gbit/s":
        return row
    counted = [
        (need, wanted_of(demand, options), demand)
        for need, demand in zip(row.per_frame, demands, strict=True)
        if need > 0
    ]
    if not counted:
        return row
    frames = sum(rate for _, rate, _ in counted)
    mean = sum(need * rate for need, rate, _ in counted) / frames
    square = sum(
        need**2 * rate * (options.dispersion if demand.flow.dispersion is None else demand.flow.dispersion)
        for need, rate, demand in counted
    )
    usable = usable_of_link(
        wait_us=min(link_wait_us(demand, options) for _, _, demand in counted),
        frame_us=mean / row.capacity * 1e6,
        loss=min(late_share(demand, options) for _, _, demand in counted),
        dispersion=square / frames / mean**2,
    )
    return replace(row, capacity=row.capacity * usable, usable=usable)


def most_factor(rows: Sequence[EntryRow], rates: Sequence[float]) -> float:
    """The largest z for which z times these rates of all models fit every row."""
    return min((row.most_factor(rates) for row in rows), default=math.inf)


def within(rows: Sequence[EntryRow], most: Sequence[float], weights: Sequence[float]) -> list[float]:
    """Rates of at most `most` that fit every row: models that get more than z times their weight are held to
    that, for the largest z that fits.
    """
    factors = sorted(rate / weight for rate, weight in zip(most, weights, strict=True))
    if all(row.used(most) <= row.capacity for row in rows):
        return list(most)
    z = 0.0
    for row in rows:
        if row.used(most) > row.capacity:
            found = _water_level(row, factors, most, weights)
            z = found if z == 0.0 else min(z, found)
    return [min(rate, z * weight) for rate, weight in zip(most, weights, strict=True)]


def _water_level(
    row: EntryRow, factors: Sequence[float], most: Sequence[float], weights: Sequence[float]
) -> float:
    """The z at which rates min(most, z * weight) fill the row."""
    pairs = list(zip(row.per_frame, most, weights, strict=True))
    low = 0.0
    for factor in factors:
        if math.fsum(need * min(rate, factor * weight) for need, rate, weight in pairs) > row.capacity:
            break
        low = factor
    held = math.fsum(need * rate for need, rate, weight in pairs if rate <= low * weight)
    rising = math.fsum(need * weight for need, rate, weight in pairs if rate > low * weight)
    return (row.capacity - held) / rising


def entry_use(
    rows: Sequence[EntryRow], models: Sequence[ModelPlan], prices: Mapping[str, float]
) -> tuple[EntryUse, ...]:
    """Per resource: its busiest direction, and the price of one more unit. `prices`: objective per unit of a
    row's capacity, by name.
    """
    rates = [model.throughput_rps for model in models]
    uses = []
    for server, resource in dict.fromkeys((row.server, row.resource) for row in rows):
        mine = [row for row in rows if (row.server, row.resource) == (server, resource)]
        uses.append(
            EntryUse(
                resource=resource,
                unit=mine[0].unit,
                capacity=mine[0].capacity / mine[0].usable / mine[0].carried,
                busy=max(row.used(rates) / row.capacity for row in mine),
                price=sum(prices.get(row.name, 0.0) * row.usable * row.carried for row in mine),
                server=server,
                usable=min(row.usable for row in mine),
            )
        )
    return tuple(uses)
