"""Slices timed side by side in processes of their own, here on the CPU."""

from __future__ import annotations

import json
import os
from functools import partial as partial_of

import pytest

from planner.profiling.measuring.measure import MeasureOptions, identity_of
from planner.profiling.measuring.mps import PERCENTAGE, SliceJob, measure_slices, require_mps
from planner.profiling.measuring.partial import Partial
from planner.profiling.measuring.timing import Run
from planner.profiling.networks.errors import ModelError
from planner.profiling.split import split_model
from tests.profiling import nets


def telling(folder, module, inputs, outputs, options, device, largest) -> Run:
    """Prepares as usual, and leaves a file that says which share of the threads this process has."""
    path = f"{folder}/{os.getpid()}.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(os.environ.get(PERCENTAGE), file)
    return lambda values: tuple(module(*values))


def refusing(module, inputs, outputs, options, device, largest) -> Run:
    raise RuntimeError("no such kernel")


def job(spec, prepare, **changes) -> SliceJob:
    options = MeasureOptions(repeats=3, warm_up=1, prepare=prepare)
    return SliceJob(spec=spec(nets.Chain), classes=(), options=options, batch_sizes=(1, 2), **changes)


def test_each_slice_is_a_process_with_its_share_and_an_interrupted_run_goes_on(spec, tmp_path):
    wanted = job(spec, partial_of(telling, tmp_path))
    identity = identity_of(split_model(wanted.spec), wanted.options, 2)
    file = tmp_path / "partial.jsonl"
    partials = [Partial(file, {**identity, "process": str(index)}) for index in range(2)]
    for index, partial in enumerate(partials):  # process 1 was a round ahead when the run was killed
        for repeat in range(1 + index):
            for batch in (1, 2):
                partial.add(repeat, batch, (1e9,) * 4)
    steps: list[str] = []
    measured = measure_slices(wanted, 2, steps.append, partials)
    assert [path.read_text() for path in tmp_path.glob("*.json")] == ['"50"'] * 2
    assert measured.batch_sizes == (1, 2)
    assert len(steps) == 3
    assert Partial(file, {**identity, "process": "0"}).known == {(r, b) for r in range(3) for b in (1, 2)}
    assert all(0 < value < 1e9 for row in measured.latency_us for value in row), "four samples of six are new"


def test_a_process_that_fails_is_said_with_its_own_words(spec):
    with pytest.raises(ModelError, match=r"model net: timing 1 slices .* failed: .*no such kernel"):
        measure_slices(job(spec, refusing), 1)


def test_a_gpu_without_the_mps_daemon_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    with pytest.raises(ModelError, match="start it with `nvidia-cuda-mps-control -d`"):
        require_mps("cuda")
    (tmp_path / "control").touch()
    require_mps("cuda")
    require_mps("cpu")
