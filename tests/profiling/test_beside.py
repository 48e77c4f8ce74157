"""Slices timed while another model runs on the others: who is busy, what is kept, what is planned with."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial as partial_of
from pathlib import Path

import pytest

from planner.profile import Profile
from planner.profiling.measuring.beside import measure_beside, worse_of
from planner.profiling.measuring.measure import Measurement, MeasureOptions, measure
from planner.profiling.measuring.mps import PERCENTAGE, SliceJob
from planner.profiling.measuring.partial import Partial
from planner.profiling.measuring.timing import Run
from planner.profiling.networks.errors import ModelError
from planner.profiling.run import ProfileError, ProfileOptions, profile_deployment, split_of
from planner.serial import dumps, loads
from tests.profiling import nets
from tests.profiling.test_profile_deployment import deployment


def writing(folder: Path, module, inputs, outputs, options, device, largest) -> Run:
    """Prepares as usual; every run leaves a line: its process' share of the threads, and the batch."""
    file = folder / str(os.getpid())

    def run(values):
        with file.open("a", encoding="utf-8") as lines:
            lines.write(f"{os.environ.get(PERCENTAGE)} {values[0].shape[0]}\n")
        return tuple(module(*values))

    return run


def refusing(module, inputs, outputs, options, device, largest) -> Run:
    raise RuntimeError("no such kernel")


def job(spec, name: str, batch_sizes: tuple[int, ...], prepare) -> SliceJob:
    options = MeasureOptions(repeats=2, warm_up=1, prepare=prepare)
    made = spec(nets.Chain).model_copy(update={"name": name})
    return SliceJob(spec=made, classes=(), options=options, batch_sizes=batch_sizes)


def test_neighbours_run_their_largest_batch_until_the_last_round_is_timed(spec, tmp_path):
    prepare = partial_of(writing, tmp_path)
    steps: list[str] = []
    partial = Partial(None, {})
    own, other = job(spec, "net", (1, 2), prepare), job(spec, "other", (3, 5), prepare)
    found = measure_beside(own, other, 2, steps.append, partial)
    assert found.batch_sizes == (1, 2)
    assert all(us > 0 for row in found.latency_us for us in row)
    assert partial.known == {(round_, batch) for round_ in range(2) for batch in (1, 2)}
    assert steps == [f"net beside other in 2 slices: round {number} of 2" for number in (1, 2)]
    written = [file.read_text().split("\n")[:-1] for file in tmp_path.iterdir()]
    (neighbour,) = (lines for lines in written if "50 5" in lines)
    (timed,) = (lines for lines in written if lines is not neighbour)
    assert set(timed) == {"50 1", "50 2"}
    # Its warm-up is one pass of four blocks at each size; what is more, it ran while the other was timed.
    assert neighbour.count("50 5") > neighbour.count("50 3") == 4


def test_a_neighbour_that_fails_is_named_with_its_own_words(spec):
    with pytest.raises(ModelError, match=r"model other: timing 2 slices .* failed: .*no such kernel"):
        measure_beside(job(spec, "net", (1,), refusing), job(spec, "other", (1,), refusing), 2)


def measured(sizes, *rows, spread=0.1) -> Measurement:
    return Measurement("cpu", sizes, rows, tuple((spread,) * len(row) for row in rows))


def test_the_worse_figure_counts_cell_by_cell_and_both_are_kept():
    own = measured((1, 2, 4), (10.0, 20.0, 40.0), (5.0, 9.0, 17.0))
    one = measured((1, 2), (12.0, 19.0), (4.0, 8.0), spread=0.2)
    two = measured((1, 2, 4), (11.0, 22.0, 90.0), (6.0, 8.5, 90.0), spread=0.3)
    found = worse_of(own, [one, two])
    assert found.batch_sizes == (1, 2)
    assert found.latency_us == ((12.0, 22.0), (6.0, 9.0))
    assert found.spread == ((0.2, 0.3), (0.3, 0.1))
    assert found.beside_own_us == ((10.0, 20.0), (5.0, 9.0))
    assert found.beside_others_us == ((12.0, 22.0), (6.0, 8.5))


def two_models(slices: int):
    here = {"name": "here", "executor": "cpu", "max_slices_per_gpu": slices}
    made = deployment(here, batch_sizes=(1, 2))
    other = made.models[0].model_copy(update={"name": "other", "batch_sizes": (1,)})
    return made.model_copy(update={"models": (*made.models, other)})


def test_a_profile_holds_both_figures_of_slices_and_the_worse_to_plan_with(monkeypatch):
    asked = []

    def times(job: SliceJob, us: float) -> Measurement:
        found = measure(split_of(wanted, job.spec.name), job.batch_sizes, replace(job.options, repeats=1))
        return replace(found, latency_us=tuple((us,) * len(row) for row in found.latency_us))

    def beside(job, other, slices, step, partial):
        asked.append((job.spec.name, other.spec.name, other.batch_sizes, slices))
        return times(job, 7.0 if job.spec.name == "net" else 3.0)

    monkeypatch.setattr(
        "planner.profiling.measuring.measured.measure_slices", lambda job, *_: times(job, 5.0)
    )
    monkeypatch.setattr("planner.profiling.measuring.measured.measure_beside", beside)
    wanted = two_models(slices=2)
    profile = profile_deployment(wanted, options=ProfileOptions(repeats=1, neighbours=True))
    assert asked == [("net", "other", (1,), 2), ("other", "net", (1, 2), 2)]
    for name, worse, others in (("net", 7.0, 7.0), ("other", 5.0, 3.0)):
        whole, half = (profile.model(name).table("here", slices) for slices in (1, 2))
        assert not whole.beside_own_us
        assert {us for row in half.latency_us for us in row} == {worse}
        assert {us for row in half.beside_own_us for us in row} == {5.0}
        assert {us for row in half.beside_others_us for us in row} == {others}
    assert loads(Profile, dumps(profile)) == profile


def test_neighbours_without_a_second_model_or_a_sliced_class_are_refused():
    options = ProfileOptions(neighbours=True)
    here = {"name": "here", "executor": "cpu", "max_slices_per_gpu": 2}
    with pytest.raises(ProfileError, match="--neighbours: net is the deployment's only model"):
        profile_deployment(deployment(here), options=options)
    with pytest.raises(ProfileError, match="--neighbours: no GPU class that is measured here is sliced"):
        profile_deployment(two_models(slices=1), options=options)
