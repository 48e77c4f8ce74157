"""What decodes and resizes clients' frames on a first stage's host: a pool of processes, or threads."""

from __future__ import annotations

import os
from collections.abc import Callable

from ensembles.prepare.turbojpeg import LIBRARY, library
from planner.ingress import PrepareRecipe
from planner.profile import TensorSpec
from python_backend.stage.pool.connecting import NoPool
from python_backend.stage.pool_preparer import PoolPreparer
from python_backend.stage.preparing import Preparer
from python_backend.stage.threads_preparer import ThreadsPreparer


def real_preparer(
    recipe: PrepareRecipe,
    target: TensorSpec,
    worker: str,
    planned_cores: int | None,
    log: Callable[[str], None],
) -> Preparer:
    """Images are strangers' files, and decoders have had faults: processes. Pixels need no decoder: threads,
    which are cheaper. `target`: the network's input that a frame becomes.
    """
    if recipe.kind == "raw":
        return ThreadsPreparer(recipe, target, log)
    if library() is None:
        log(
            f"{worker}: no {LIBRARY} on this host: preparing JPEGs costs 5 to 40 % more "
            "(Debian has it as libturbojpeg0, Ubuntu as libturbojpeg)"
        )
    there = len(os.sched_getaffinity(0))
    try:
        return PoolPreparer(recipe, target, min(there, planned_cores or there), log)
    except NoPool as error:
        log(f"{worker}: frames are prepared by threads, and a decoder that crashes ends all: {error}")
        return ThreadsPreparer(recipe, target, log)
