"""Cascades in simulation: answers of one model's core become frames of the next one's.

Nothing goes back from a member to those before it, and members share no workers. So the members are simulated
one after the other, each whole, on the answers of the one that feeds it.

Rules
- A frame's crops come together when its answer does, and share batches with other frames' crops.
- All that comes of a frame carries its time: a member must answer by the frame's arrival and the parts of the
  SLO on the way to that member. So what one member leaves, the next one has.
- Frames of a workload with streams name theirs to the first member. One that a newer one of its stream
  replaced is superseded, and counts in no attainment.
- A frame is complete if all that came of it was answered by its deadline, partial if its first answer was and
  something else was not, else declined. A frame without crops is complete with its first answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from planner.cascades.data import Cascade, Fanout
from planner.cascades.fanouts import draw_counts
from planner.serving import ServedModel
from python_backend.simulator.arrivals import parse_arrivals
from python_backend.simulator.bunches import SUPERSEDED, Missing, MissingOf, TooMuchMissing, serve_bunches
from python_backend.simulator.capacity import TARGET, Workload

Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class MemberReport:
    """What one member of a cascade served: frames that came, and those answered in time."""

    model: str
    frames: int
    in_time: int


@dataclass(frozen=True)
class CascadeReport:
    """What a cascade served, in its own frames. attainment: the share that was complete, of those not
    superseded. Latencies are of the
    complete ones.
    """

    cascade: str
    arrivals: str
    rate_rps: float
    seconds: float
    seed: int
    offered: int
    complete: int
    partial: int
    declined: int
    superseded: int
    attainment: float
    latency_p50_us: float
    latency_p99_us: float
    members: tuple[MemberReport, ...]


@dataclass(frozen=True)
class _Answered:
    """Frames of one member: of which frame of the cascade each comes, and when it was answered."""

    origin: Times
    at_us: Times
    in_time: npt.NDArray[np.bool_]


def is_reached(
    cascade: Cascade,
    served: Mapping[str, ServedModel],
    rate_rps: float,
    workload: Workload,
    target: float = TARGET,
) -> bool:
    """Whether the attainment at `rate_rps`, in the mean over the workload's seeds, is the target or more. A
    run that cannot reach it any more is broken off. Raises ArrivalError.
    """
    # The mean over seeds weighs each seed alike, whatever its number of frames.
    allowed = (1.0 - target) * len(workload.seeds) + 1e-12
    for seed in workload.seeds:
        one = replace(workload, seeds=(seed,))
        try:
            allowed -= 1.0 - simulate_cascade(cascade, served, rate_rps, one, allowed).attainment
        except TooMuchMissing:
            return False
        if allowed < 0:
            return False
    return True


def mean_attainment(
    cascade: Cascade, served: Mapping[str, ServedModel], rate_rps: float, workload: Workload
) -> float:
    """Over the workload's seeds. Raises ArrivalError."""
    each = [replace(workload, seeds=(seed,)) for seed in workload.seeds]
    return sum(simulate_cascade(cascade, served, rate_rps, one).attainment for one in each) / len(each)


def simulate_cascade(
    cascade: Cascade,
    served: Mapping[str, ServedModel],
    rate_rps: float,
    workload: Workload,
    may_lack: float = 1.0,
) -> CascadeReport:
    """Serve `rate_rps` frames/s of the cascade with the workload's first seed. served: each member, its SLO
    being its part. Raises ArrivalError; TooMuchMissing once more than the share `may_lack` of the frames
    offered lacks something.
    """
    seed = workload.seeds[0]
    times = parse_arrivals(workload.arrivals, rate_rps).times_us(workload.seconds, seed, cascade.name)
    born_us = np.fromiter(times, dtype=np.int64)
    answers: dict[str, _Answered] = {}
    ended_us, whole = born_us.copy(), np.ones(len(born_us), dtype=bool)
    first = cascade.members[0].model
    missing = None if may_lack >= 1 else Missing(len(born_us), int(may_lack * len(born_us)))
    for number, member in enumerate(cascade.members):
        model = served[member.model]
        if member.of:
            origin, come_us = _bunches(answers[member.of], member.fanout, (seed, number))
        else:
            origin, come_us = np.arange(len(born_us)), born_us
        allowed_us = sum(served[each.model].slo_us for each in cascade.way_to(member.model))
        places = None if member.of else workload.places()
        due_us = born_us[origin] + allowed_us
        until_us = born_us[origin] + cascade.slo_us
        watch = None if missing is None else MissingOf(missing, origin.tolist(), until_us.tolist())
        answered_us = serve_bunches(model, come_us, due_us, workload, places=places, watch=watch)
        in_time = (answered_us >= 0) & (answered_us <= until_us)
        answers[member.model] = _Answered(origin, answered_us, in_time)
        np.maximum.at(ended_us, origin, answered_us)
        np.logical_and.at(whole, origin, in_time)
    begun = answers[first].in_time
    complete = whole & begun
    superseded = int((answers[first].at_us == SUPERSEDED).sum())
    counted = len(born_us) - superseded
    taken_us = (ended_us - born_us)[complete]
    return CascadeReport(
        cascade=cascade.name,
        arrivals=workload.arrivals,
        rate_rps=rate_rps,
        seconds=workload.seconds,
        seed=seed,
        offered=len(born_us),
        complete=int(complete.sum()),
        partial=int((begun & ~whole).sum()),
        declined=int((~begun).sum()) - superseded,
        superseded=superseded,
        attainment=float(complete.sum() / counted) if counted else 1.0,
        latency_p50_us=_quantile(taken_us, 0.5),
        latency_p99_us=_quantile(taken_us, 0.99),
        members=tuple(
            MemberReport(name, len(one.origin), int(one.in_time.sum())) for name, one in answers.items()
        ),
    )


def _bunches(parents: _Answered, fanout: Fanout, seed: Sequence[int]) -> tuple[Times, Times]:
    """Frames that come of these answers, in order of time: of which frame of the cascade, and when."""
    answered = np.nonzero(parents.in_time)[0]
    answered = answered[np.argsort(parents.at_us[answered], kind="stable")]
    # Drawn for every parent, so that the same parent has the same crops whatever became of others.
    counts = draw_counts(fanout, len(parents.origin), np.random.default_rng(seed))[answered]
    return np.repeat(parents.origin[answered], counts), np.repeat(parents.at_us[answered], counts)


def _quantile(values: Times, share: float) -> float:
    return float(np.quantile(values, share)) if len(values) else 0.0
