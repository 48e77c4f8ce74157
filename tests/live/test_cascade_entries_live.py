"""A cascade at two entries on real tritonservers, each of which is killed under load: its callers go on
through the other one, whose own callers notice nothing.
"""

from __future__ import annotations

import operator
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.helpers.entries.deployed import ENTRIES
from benchmarks.helpers.entries.kills import Callers
from benchmarks.helpers.loads.tagged import TaggedFrame
from model_repo_generator.emulated import (
    EmulatedCascade,
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
)
from planner.cascades.data import Cascade, Fanout, Member
from planner.profile import TensorSpec
from planner.shards import Shard
from ppipe.commands.status import cascade_entry_rows
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.live_metrics import read_all, read_cascades
from tests.live.data_plane_client import INPUT, served, tag_of
from tests.live.test_data_plane_faults import pid_of
from tests.waiting import wait_for

pytestmark = [pytest.mark.live, pytest.mark.slow]

SLO_US = 8_000_000
"""In which any host answers."""
MOST, RPS = 3, 30
OUTPUT = (TensorSpec("scores", "FP32", (10,)),)
BOTH = (
    Shard(ENTRIES, 250.0, (((0,),),)),
    Shard(ENTRIES[::-1], 250.0, (((1,),),)),
)
ONE = (Shard(ENTRIES[::-1], 500.0, (((0, 1),),)),)
"""Frames of the first entry are passed on to the second."""
BEFORE_S, AFTER_S = 2.0, 1.0


def some_frames(frame: Any, outputs: Mapping[str, Any]) -> Iterator[Any]:
    """MOST at most, numbered after their frame."""
    number = tag_of(outputs["scores"])
    for row in range(number % (MOST + 1)):
        made = np.zeros(INPUT.shape, np.float32)
        made.view(np.int64)[0] = number * 100 + row
        yield row, made


def model(name: str) -> EmulatedModel:
    stage = EmulatedStage((4_000, 5_000, 6_000, 7_000), (f"{name}-0", f"{name}-1"), OUTPUT)
    pipeline = EmulatedPipeline(batch_size=4, stages=(stage,))
    return EmulatedModel(name, SLO_US // 2, 500.0, INPUT, (pipeline,))


class ParentCallers(Callers):
    """Of every two, one keeps to each entry; a partial answer is none."""

    def _lacking(self, outputs: Mapping[str, Any]) -> str:
        number = tag_of(outputs["scores"])
        tags = [tag_of(row) for row in outputs["classifier.scores"][0]]
        if outputs["partial"].any() or tags != [number * 100 + row for row in range(number % (MOST + 1))]:
            return f"reason=partial: frame {number} has {tags}"
        return ""


@contextmanager
def cascade_of(root: Path, classifier: tuple[Shard, ...]) -> Iterator[ServedDeployment]:
    """At two entries; the detector has a shard at each."""
    make = f"{__name__}:{some_frames.__name__}"
    members = (Member("detector"), Member("classifier", "detector", Fanout(1.5, 1.1, MOST), make))
    cascade = EmulatedCascade(Cascade("traffic", SLO_US, members), 100.0)
    with served(
        root,
        model("detector"),
        model("classifier"),
        cascades=[cascade],
        shards={"detector": BOTH, "classifier": classifier},
    ) as deployment:
        wait_for_home(deployment)
        yield deployment


def wait_for_home(deployment: ServedDeployment) -> None:
    """Until each entry owns the shards whose home it is."""
    home = {
        model.model: {
            entry: {str(at) for at, shard in enumerate(model.shards) if shard.order[0] == entry}
            for entry in ENTRIES
        }
        for model in deployment.manifest.models
    }
    wait_for(lambda: owned(deployment) == home, found=lambda: owned(deployment))


def owned(deployment: ServedDeployment) -> dict[str, dict[str, set[str]]]:
    """By model and entry that shows a page: the shards that it owns."""
    manifest, found = deployment.manifest, {}
    for each in manifest.models:
        try:
            looks = read_all(manifest, each)
        except OSError:
            looks = {}
        found[each.model] = {
            entry: set(look.values("ppipe_shard_term", "shard")) for entry, look in looks.items()
        }
    return found


@dataclass(frozen=True)
class Kill:
    """Of an entry, in seconds from the load's start."""

    victim: int
    killed_s: float
    back_s: float


@contextmanager
def load(deployment: ServedDeployment, seconds: float) -> Iterator[ParentCallers]:
    callers = ParentCallers(deployment.manifest, "traffic", SLO_US)
    arrivals = [number * 1_000_000 // RPS for number in range(round(seconds * RPS))]
    thread = threading.Thread(target=callers.run, args=(arrivals,))
    thread.start()
    try:
        yield callers
    finally:
        callers.stop()
        thread.join()
        callers.close()


def killed(deployment: ServedDeployment, victim: int, began_s: float) -> Kill:
    os.kill(pid_of(deployment, ENTRIES[victim]), signal.SIGKILL)
    killed_s = time.monotonic() - began_s
    wait_for(lambda: owned(deployment)["detector"].get(ENTRIES[1 - victim]) == {"0", "1"})
    wait_for_home(deployment)
    wait_for(lambda: set(read_cascades(deployment.manifest, deployment.manifest.cascades[0])) == set(ENTRIES))
    return Kill(victim, killed_s, time.monotonic() - began_s)


def test_parents_at_either_entry_are_answered_whole(tmp_path: Path) -> None:
    with cascade_of(tmp_path, ONE) as deployment:
        answers_all(deployment)


def answers_all(deployment: ServedDeployment) -> None:
    before = counted(deployment)
    with load(deployment, 4.0) as callers:
        time.sleep(5.0)
    frames = callers.frames
    assert [frame for frame in frames if frame.error or frame.wrong or frame.answers != 1] == []
    crops = sum(number % (MOST + 1) for number in range(0, len(frames), 2))
    half = len(frames) // 2
    wanted = {"entry-0": (half, half, 0, crops), "entry-1": (half, half, 0, 0)}

    def since() -> dict[str, tuple[float, ...]]:
        after = counted(deployment)
        return {entry: tuple(map(operator.sub, after[entry], before[entry])) for entry in ENTRIES}

    wait_for(lambda: since() == wanted, 20.0, since)  # entry-0 owns nothing of the classifier
    assert {row[1] for row in cascade_entry_rows(deployment.manifest) if int(row[3]) >= half} == set(ENTRIES)


def counted(deployment: ServedDeployment) -> dict[str, tuple[float, ...]]:
    """By entry: parents that came, that were answered whole and in part, and crops that it passed on."""
    manifest = deployment.manifest
    parents = read_cascades(manifest, manifest.cascade("traffic"))
    crops = read_all(manifest, manifest.model("classifier"))
    return {
        entry: (
            look.total("ppipe_cascade_frames_total"),
            *(look.total("ppipe_cascade_ended_total", end=end) for end in ("complete", "partial")),
            crops[entry].total("ppipe_passed_on_total"),
        )
        for entry, look in parents.items()
    }


def test_an_entry_that_is_killed_is_stood_in_for(tmp_path: Path) -> None:
    with cascade_of(tmp_path, BOTH) as deployment:
        stood_in_for(deployment)


def stood_in_for(deployment: ServedDeployment) -> None:
    with load(deployment, 600.0) as callers:
        began_s = time.monotonic()
        kills = []
        for victim in (1, 0):
            time.sleep(BEFORE_S)
            kills.append(killed(deployment, victim, began_s))
        time.sleep(AFTER_S)
    frames = callers.frames
    assert {frame.answers for frame in frames} == {1}
    assert not any(frame.wrong for frame in frames)
    whole = {id(frame) for frame in frames if frame.in_time(SLO_US / 1e6)}
    for kill in kills:
        between = [
            (number % 2, frame)
            for number, frame in enumerate(frames)
            if kill.killed_s <= frame.sent_s < kill.back_s
        ]
        others = [frame for home, frame in between if home != kill.victim]
        own = [frame for home, frame in between if home == kill.victim]
        lost, went_on = missed(others, whole), missed(own, whole)
        assert len(lost) <= 0.01 * len(others), lost
        # Two a second find out that it is still gone.
        assert len(went_on) <= 0.3 * len(own), went_on
        seconds = kill.back_s - kill.killed_s
        print(f"{len(lost)} of {len(others)} lost, {len(went_on)} of {len(own)} own, {seconds:.1f} s")
    apart = [frame for frame in frames if frame.error and not any(near(frame, kill) for kill in kills)]
    assert apart == []


def missed(frames: list[TaggedFrame], whole: set[int]) -> list[TaggedFrame]:
    return [frame for frame in frames if id(frame) not in whole]


def near(frame: TaggedFrame, kill: Kill) -> bool:
    return kill.killed_s - 1 <= frame.sent_s < kill.back_s
