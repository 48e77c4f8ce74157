"""Emulated deployments with one entry or with two, and loads of one of each in turns.

Loads in turns: both deployments run all the time, so that what the host does meanwhile, and how fast its
cores are just then, meets both alike.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from model_repo_generator.emulated import EmulatedModel, write_deployment
from planner.shards import Shard
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.live_metrics import Look, read
from ppipe.serving.ports import free_base

ENTRIES = ("entry-0", "entry-1")
LONGEST_S = 60.0
"""What is waited for comes before that."""
Measured = TypeVar("Measured")


@contextlib.contextmanager
def deployed(
    name: str, models: Sequence[EmulatedModel], shards: Mapping[str, Sequence[Shard]]
) -> Iterator[ServedDeployment]:
    """These models, served: by one entry without shards, else by two, each of which owns the shard of its
    number of every model. Raises RuntimeError.
    """
    with tempfile.TemporaryDirectory(prefix=f"ppipe-{name}-") as folder:
        root = Path(folder)
        write_deployment(root / "repository", models, free_base(31_000, 40), name, shards=shards)
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            for model in range(len(models)) if shards else ():
                wait_until(lambda model=model: all_at_home(deployment, model))  # type: ignore[misc]
            yield deployment


def in_turns(
    one: ServedDeployment,
    two: ServedDeployment,
    turns: int,
    measured: Callable[[ServedDeployment], Measured],
) -> list[tuple[Measured, Measured]]:
    """What was measured of both, by turn; who goes first alternates."""
    found = []
    for turn in range(turns):
        if turn % 2 == 0:
            of_one, of_two = measured(one), measured(two)
        else:
            of_two, of_one = measured(two), measured(one)
        found.append((of_one, of_two))
    return found


def all_at_home(deployment: ServedDeployment, model: int = 0) -> bool:
    """Whether each entry owns the shard of its number, of the model of this number."""
    return all(owns(deployment, entry, model) == {str(entry)} for entry in range(len(ENTRIES)))


def owns(deployment: ServedDeployment, entry: int, model: int = 0) -> set[str]:
    """Names of the shards of a model that an entry owns, as it says."""
    page = page_of(deployment, entry, model)
    return set() if page is None else set(page.values("ppipe_shard_term", "shard"))


def page_of(deployment: ServedDeployment, entry: int, model: int = 0) -> Look | None:
    """An entry's metrics of a model; None where it does not answer."""
    seen = deployment.manifest.seen_from(ENTRIES[entry])
    try:
        return read(seen, seen.models[model])
    except OSError:
        return None


def wait_until(holds: Callable[[], bool]) -> None:
    """Raises RuntimeError."""
    end_s = time.monotonic() + LONGEST_S
    while not holds():
        if time.monotonic() > end_s:
            raise RuntimeError(f"nothing came of it within {LONGEST_S:g} s")
        time.sleep(0.02)
