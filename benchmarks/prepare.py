"""What it costs to make clients' frames into a network's input: time of one core per frame, as
fixed + per pixel + per byte, fitted over frames of four sizes and three qualities.

Per preset of preparing as stages do it, on a thread; per library of decoding alone; in processes against
threads; decoding at a reduced scale against decoding at full size; resizing plane by plane against decoding
whole; each kind of resizing of a 1080p frame.
The planner's own costs come from the same code (`ppipe profile --prepare`).
"""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.helpers.machines.cpu_time import tree_us
from benchmarks.helpers.report import main
from ensembles.prepare.decoding import decode
from ensembles.prepare.fitting import placed
from ensembles.prepare.headers import read_header
from ensembles.prepare.pixels import encoded_pixels
from ensembles.prepare.planes import scaled_planes
from ensembles.prepare.resizing import resize, scaled, use_one_thread
from ensembles.prepare.turbojpeg import LIBRARY, library
from planner.deployment import PreprocessSpec, recipe_of
from planner.deployment.presets import PRESETS
from planner.ingress import FrameLimits, PrepareRecipe
from planner.profile import TensorSpec
from planner.profiling.prepare_fit import FoundCost, fit_cost
from ppipe.prepare_times import MadeFrame, made_frames, timed
from python_backend.stage.pool_preparer import PoolPreparer
from python_backend.stage.preparing import Prepared, Preparer
from python_backend.stage.threads_preparer import ThreadsPreparer

SIDES = {"crop": 224, "letterbox": 640, "stretch": 640}
"""Of the network's input, by fit."""
LIMITS = FrameLimits(max_pixels=1 << 30, max_bytes=1 << 30)
HD = (1920, 1080)


def run(repeats: int = 5, rounds: int = 3, batches: int = 20) -> Mapping[str, Any]:
    """The figures of this benchmark."""
    use_one_thread()
    frames = made_frames("jpeg")
    figures: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    figures["presets"] = {
        name: _figures(_fitted(frames, _preset(name), repeats), frames) for name in ("none", *PRESETS)
    }
    figures["decoders"] = {
        name: _figures(_timed(frames, work, repeats), frames) for name, work in _decoders().items()
    }
    figures["resizing_ms"] = _resizing(frames, repeats)
    figures["reduced_over_full"] = _reduced(frames, repeats)
    figures["planes_over_whole"] = _planes(frames, repeats)
    figures |= _processes(frames, rounds, batches)
    return figures


def _preset(name: str, **more: Any) -> PrepareRecipe:
    spec = PreprocessSpec(**more) if name == "none" else PreprocessSpec(preset=name, **more)
    side = SIDES[spec.base.fit.kind]
    recipe = recipe_of(spec, TensorSpec("image", "FP32", (3, side, side)), "net")
    return dataclasses.replace(recipe, limits=LIMITS)


def _fitted(frames: Sequence[MadeFrame], recipe: PrepareRecipe, repeats: int) -> FoundCost:
    return _timed(frames, lambda data: encoded_pixels(data, recipe), repeats)


def _timed(frames: Sequence[MadeFrame], work: Callable[[bytes], object], repeats: int) -> FoundCost:
    return fit_cost(timed(frames, lambda frame: work(frame.data), repeats, time.thread_time))


def _figures(found: FoundCost, frames: Sequence[MadeFrame]) -> dict[str, float]:
    (hd,) = [frame for frame in frames if (frame.info.width, frame.info.height) == HD][1:2]
    return {
        "fixed_us": round(found.cost.fixed_us, 1),
        "us_per_megapixel": round(1e6 * found.cost.us_per_pixel, 1),
        "us_per_megabyte": round(1e6 * found.cost.us_per_byte, 1),
        "residual": round(found.residual, 3),
        "ms_1080p": round(found.cost.us(HD[0] * HD[1], hd.info.size) / 1e3, 2),
    }


def _decoders() -> dict[str, Callable[[bytes], object]]:
    def by_pillow(data: bytes) -> object:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return np.asarray(image.convert("RGB"))

    decoders: dict[str, Callable[[bytes], object]] = {
        "simplejpeg": lambda data: simplejpeg.decode_jpeg(data, "RGB"),
        "simplejpeg, header, order and checks": lambda data: decode(data),
        "opencv": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR),
        "pillow": by_pillow,
    }
    try:
        import turbojpeg  # type: ignore[import-not-found]

        turbo = turbojpeg.TurboJPEG()
    except (ImportError, RuntimeError, OSError):
        return decoders
    decoders["pyturbojpeg"] = lambda data: turbo.decode(data, pixel_format=turbojpeg.TJPF_RGB)
    return decoders


def _resizing(frames: Sequence[MadeFrame], repeats: int) -> dict[str, float]:
    pixels = decode(next(frame for frame in frames if frame.info.width == HD[0]).data)
    found = {}
    for name in ("bilinear", "antialias", "bicubic", "area"):
        times = []
        for _ in range(3 * repeats):
            began_s = time.thread_time()
            resize(pixels, (640, 640), name)
            times.append(time.thread_time() - began_s)
        found[name] = round(1e3 * statistics.median(times), 2)
    return found


def _reduced(frames: Sequence[MadeFrame], repeats: int) -> dict[str, float]:
    """Of a 1080p frame for a network of 224 x 224: time as a share, and mean difference of pixels / 255."""
    (frame,) = [frame for frame in frames if frame.info.width == HD[0]][1:2]
    full, reduced = _preset("torchvision"), _preset("torchvision", decode="reduced")
    times = {}
    for recipe in (full, reduced):
        work = functools.partial(_prepare, recipe)
        times[recipe.reduced] = timed([frame], work, repeats, time.thread_time)[0].us
    pixels = [encoded_pixels(frame.data, recipe).astype(int) for recipe in (full, reduced)]
    return {
        "time": round(times[True] / times[False], 3),
        "difference": round(float(np.abs(pixels[0] - pixels[1]).mean()) / 255, 5),
    }


PLANES = {
    "stretch": {"fit": "stretch", "interpolation": "bilinear"},
    "letterbox": {"fit": "letterbox", "interpolation": "bilinear"},
    "antialias": {"fit": "stretch", "interpolation": "antialias"},
    "bicubic": {"fit": "stretch", "interpolation": "bicubic"},
}


def _planes(frames: Sequence[MadeFrame], repeats: int) -> dict[str, dict[str, float]] | str:
    """Of a 1080p frame for 640 x 640 that is resized plane by plane: time as a share of that of decoding it
    whole, and mean difference of pixels / 255. A text where the host has no library for it.
    """
    if library() is None:
        return f"no {LIBRARY} here"
    (frame,) = [frame for frame in frames if (frame.info.width, frame.info.height) == HD][1:2]
    return {name: _planes_over_whole(frame, _preset("none", **how), repeats) for name, how in PLANES.items()}


def _planes_over_whole(frame: MadeFrame, recipe: PrepareRecipe, repeats: int) -> dict[str, float]:
    header, place = read_header(frame.data, LIMITS), placed(recipe, *HD)
    times: dict[str, list[float]] = {"planes": [], "whole": []}
    for _ in range(3 * repeats):
        began_s = time.thread_time()
        pixels = scaled_planes(frame.data, header, place, recipe)
        times["planes"].append(time.thread_time() - began_s)
        began_s = time.thread_time()
        whole = scaled(decode(frame.data, None, header), place, recipe)
        times["whole"].append(time.thread_time() - began_s)
    assert pixels is not None
    return {
        "time": round(statistics.median(times["planes"]) / statistics.median(times["whole"]), 3),
        "saved_ms": round(1e3 * (statistics.median(times["whole"]) - statistics.median(times["planes"])), 2),
        "difference": round(float(np.abs(pixels.astype(int) - whole).mean()) / 255, 5),
    }


def _prepare(recipe: PrepareRecipe, frame: MadeFrame) -> object:
    return encoded_pixels(frame.data, recipe)


def _processes(frames: Sequence[MadeFrame], rounds: int, batches: int) -> dict[str, float]:
    """1080p frames for 640 x 640, two batches of 4 under way: CPU of all processes per frame."""
    recipe, cores = _preset("none"), len(os.sched_getaffinity(0))
    target = TensorSpec("image", "FP32", (3, SIDES["stretch"], SIDES["stretch"]))
    (frame,) = [frame for frame in frames if frame.info.width == HD[0]][1:2]
    costs: dict[str, list[float]] = {"threads": [], "processes": []}
    for _ in range(rounds):
        for name, make in (
            ("threads", lambda: ThreadsPreparer(recipe, target, print)),
            ("processes", lambda: PoolPreparer(recipe, target, cores, print)),
        ):
            preparer = make()
            _load(preparer, frame, 3)
            began_us = tree_us([os.getpid()])
            _load(preparer, frame, batches)
            costs[name].append((tree_us([os.getpid()]) - began_us) / (4e3 * batches))
            preparer.close()
    ratios = [there / here for there, here in zip(costs["processes"], costs["threads"], strict=True)]
    return {
        "threads_ms": round(statistics.median(costs["threads"]), 2),
        "processes_ms": round(statistics.median(costs["processes"]), 2),
        "processes_over_threads": round(statistics.median(ratios), 3),
    }


def _load(preparer: Preparer, frame: MadeFrame, batches: int) -> None:
    room = threading.Semaphore(2)

    def done(prepared: Prepared) -> None:
        assert not prepared.faults
        assert prepared.failed is None
        room.release()

    for _ in range(batches):
        room.acquire()
        preparer.begin([frame.info] * 4, [frame.data] * 4, done)
    room.acquire()
    room.acquire()


if __name__ == "__main__":
    main(__doc__.splitlines()[0], run, repeats=5, rounds=3, batches=20)
