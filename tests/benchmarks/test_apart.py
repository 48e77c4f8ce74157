"""The models apart that a cascade is compared with: Triton's dynamic batcher, simulated."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cascades import CROPS, cascaded
from benchmarks.helpers.cascades.apart import Queue, reaches_apart, serve_queue
from python_backend.simulator.capacity import Workload
from tests.fixtures.made_problems import MadeSize

ONE = ((10_000, 15_000),)


@pytest.mark.parametrize(
    ("come", "queue", "answered"),
    [
        ([0, 0, 0], Queue(ONE, 0), [15_000, 15_000, 25_000]),
        ([0, 3_000], Queue(ONE, 0), [10_000, 20_000]),
        ([0, 3_000], Queue(ONE, 5_000), [18_000, 18_000]),
        ([0, 9_000], Queue(ONE, 5_000), [15_000, 25_000]),
        ([0, 0, 0], Queue(ONE, 0, timeout_us=12_000), [15_000, 15_000, -1]),
        ([0, 0], Queue(((20_000,), (5_000,)), 0), [5_000, 20_000]),
        ([], Queue(ONE, 0), []),
    ],
)
def test_the_batcher_waits_runs_and_rejects_as_tritons_does(
    come: list[int], queue: Queue, answered: list[int]
) -> None:
    assert serve_queue(np.array(come, dtype=np.int64), queue).tolist() == answered


def test_more_load_than_the_instances_carry_is_not_reached() -> None:
    (cascade,) = cascaded(MadeSize(gpus=4, classes=1, models=2), 1, CROPS).cascades
    queues = [Queue(((2_000,),) * 2, 0), Queue(((2_000, 3_000, 4_000),) * 2, 0)]
    workload = Workload(seconds=3.0, seeds=(1,))
    assert reaches_apart(cascade, queues, 30.0, workload)
    assert not reaches_apart(cascade, queues, 900.0, workload)
