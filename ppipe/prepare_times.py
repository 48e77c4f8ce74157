"""Times what preparing frames costs on this host, for the planner: made-up frames of several sizes and bytes
through what stages prepare them with, one at a time.

Frames take turns, so that a slow moment of the host meets all alike. Pictures are made up as `ppipe bench`
makes them.
"""

from __future__ import annotations

import dataclasses
import io
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from planner.deployment import Deployment, prepare_key, recipe_of
from planner.deployment.model import input_spec
from planner.ingress import PrepareRecipe
from planner.profile import ModelProfile, Profile, TensorSpec
from planner.profiling.prepare_fit import FoundCost, FrameTime, fit_cost
from ppipe.bench.frames import make_pictures
from python_backend.stage.pool_preparer import PoolPreparer
from python_backend.stage.preparing import Prepared, Preparer
from python_backend.stage.threads_preparer import ThreadsPreparer
from python_backend.wire.ragged import FrameInfo, FrameKind

SIZES = ((640, 480), (1280, 720), (1920, 1080), (2560, 1440))
QUALITIES = (50, 80, 95)
REPEATS = 7
_WARM_UP = 2
_SEED = 5
_FRAME_S = 30.0


@dataclass(frozen=True)
class MadeFrame:
    """A frame as a client sends it."""

    info: FrameInfo
    data: bytes


def made_frames(kind: str) -> list[MadeFrame]:
    """Of every size; JPEGs in every quality."""
    frames = []
    for width, height in SIZES:
        (picture,) = make_pictures(1, _SEED, width, height)
        if kind == "raw":
            data = picture.tobytes()
            frames.append(MadeFrame(FrameInfo(FrameKind.PIXELS, len(data), width, height), data))
            continue
        for quality in QUALITIES:
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
            data = buffer.getvalue()
            frames.append(MadeFrame(FrameInfo(FrameKind.ENCODED, len(data), width, height), data))
    return frames


def timed(
    frames: Sequence[MadeFrame], work: Callable[[MadeFrame], object], repeats: int, clock: Callable[[], float]
) -> list[FrameTime]:
    """Median of each frame. `clock`: seconds."""
    times: list[list[float]] = [[] for _ in frames]
    for turn in range(repeats + _WARM_UP):
        for frame, each in zip(frames, times, strict=True):
            began_s = clock()
            work(frame)
            if turn >= _WARM_UP:
                each.append((clock() - began_s) * 1e6)
    return [
        FrameTime(frame.info.width * frame.info.height, frame.info.size, statistics.median(each))
        for frame, each in zip(frames, times, strict=True)
    ]


def measure_prepare(recipe: PrepareRecipe, repeats: int = REPEATS) -> FoundCost:
    """As a first stage does it: from having a frame to having its pixels."""
    target = TensorSpec("input", recipe.dtype, _shape(recipe))
    preparer: Preparer = (
        ThreadsPreparer(recipe, target, print)
        if recipe.kind == "raw"
        else PoolPreparer(recipe, target, 1, print)
    )
    try:
        frames = made_frames(recipe.kind)
        times = timed(frames, lambda frame: _prepared(preparer, frame), repeats, time.perf_counter)
        return fit_cost(times, by_bytes=recipe.kind != "raw")
    finally:
        preparer.close()


def with_prepare(deployment: Deployment, profile: Profile, repeats: int = REPEATS) -> Profile:
    """The profile with what preparing costs here for each model that has any."""
    return Profile(models=tuple(_with(deployment, model, repeats) for model in profile.models))


def _with(deployment: Deployment, model: ModelProfile, repeats: int) -> ModelProfile:
    spec = next((spec for spec in deployment.models if spec.name == model.model), None)
    if spec is None or spec.preprocess is None:
        return model
    recipe = recipe_of(spec.preprocess, input_spec(spec), spec.name)
    # Limits are for strangers' frames.
    limits = dataclasses.replace(recipe.limits, max_pixels=1 << 30, max_bytes=1 << 30)
    found = measure_prepare(dataclasses.replace(recipe, limits=limits), repeats)
    note = json.dumps({"of": prepare_key(recipe), "residual": round(found.residual, 3)})
    provenance = {**model.provenance, "prepare": note}
    return dataclasses.replace(model, prepare=found.cost, provenance=provenance)


def _shape(recipe: PrepareRecipe) -> tuple[int, ...]:
    sides = recipe.height, recipe.width
    return (recipe.channels, *sides) if recipe.layout == "nchw" else (*sides, recipe.channels)


def _prepared(preparer: Preparer, frame: MadeFrame) -> None:
    ended = threading.Event()
    found: list[Prepared] = []

    def done(prepared: Prepared) -> None:
        found.append(prepared)
        ended.set()

    preparer.begin([frame.info], [frame.data], done)
    if not ended.wait(_FRAME_S) or found[0].failed or found[0].faults:
        raise RuntimeError(f"a made-up frame of {frame.info.size} bytes could not be prepared: {found}")
