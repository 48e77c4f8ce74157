"""Estimated against measured latencies: the zoo's networks on the GPU classes of a data folder
(benchmarks.paper.data).

Whole models on whole GPUs, batch 1 to 8. error: |estimate / measurement - 1|. calibrated: the same after
scaling a network's estimates by its measurement / estimate on one other class, every ordered pair of classes.
ratio: the error of latency ratios between a class and L4. Networks of which the zoo has only the family are
reported apart.

The catalogue's constants were fitted to networks of such data, so the same figures are given for constants
fitted without the network, and without the class, that is estimated (estimate_fit).

The data does not give frame sizes. Of a few plausible ones, the size is taken whose feature maps explain most
of the data's cuts (two bytes per number).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.helpers.networks.estimate_fit import (
    Fit,
    Sample,
    catalogued,
    fitted,
    values,
    without_each_class,
    without_each_network,
)
from benchmarks.helpers.networks.estimate_match import Match, match
from ensembles.zoo.catalogue import ZooEntry
from planner.profiling.gpus import CATALOGUE
from planner.profiling.kernels import kernels_of
from planner.profiling.roofline import Work
from planner.profiling.split import Split, split_model

BYTES_PER_NUMBER = 2
REFERENCE = "L4"
LARGEST_BATCH = 8
EXPLAINED = 0.5
"""Where no usual frame explains this share of the cuts, others are tried."""
Frame = tuple[int, int, int]
Factors = Mapping[tuple[str, str, int], float]
"""Estimate / measurement per network, class and batch size."""


@dataclass(frozen=True)
class Compared:
    """One model of the data: what stands for it, at which frame, and its measurements."""

    name: str
    match: Match
    frame: Frame
    explained: float
    samples: tuple[Sample, ...]
    sliced: tuple[Sample, ...] = ()
    """One of two and more slices of a GPU; not fitted to."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print errors per network and class; the last line is JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with models.json")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    parser.add_argument("--no-refit", action="store_true", help="only the catalogue's constants")
    chosen = parser.parse_args(arguments)
    compared = list(_compared(json.loads((chosen.data / "models.json").read_text(encoding="utf-8"))))
    samples = [sample for each in compared if each.match.same for sample in each.samples]
    if not samples:
        raise SystemExit(f"{chosen.data}: no network of the data is in the zoo")
    start = catalogued({sample.gpu for sample in samples})
    factors = factors_of(samples, start)
    result = summary(factors) | {
        "networks": len({sample.network for sample in samples}),
        "errors": errors_per_network(factors),
        "substitutes": _substitutes(compared),
        "errors_of_slices": _slices(compared, start),
    }
    _say("constants of the catalogue", result)
    print("one of several slices: median error", _shown(result["errors_of_slices"]))
    if not chosen.no_refit:
        result |= held_out(samples)
    if chosen.json:
        print(json.dumps(result))


def held_out(samples: Sequence[Sample]) -> dict[str, Any]:
    """The same figures where what is estimated had no part in the fit; needs two networks and classes."""
    everything = fitted(samples)
    result: dict[str, Any] = {
        "refitted": summary(factors_of(samples, everything))
        | {"constants": {name: float(f"{value:.4g}") for name, value in values(everything).items()}}
    }
    _say("fitted to this data", result["refitted"])
    if len({sample.network for sample in samples}) > 1:
        fits = without_each_network(samples)
        factors: dict[tuple[str, str, int], float] = {}
        for network, fit in fits.items():
            factors |= factors_of([sample for sample in samples if sample.network == network], fit)
        result["held_out_network"] = summary(factors) | {"errors": errors_per_network(factors)}
        result |= {f"held_out_{name}": value for name, value in summary(factors).items()}
        _say("fitted without the network", result["held_out_network"])
    if len({sample.gpu for sample in samples}) > 1:
        result["held_out_class"] = {}
        for gpu, fit in without_each_class(samples).items():
            result["held_out_class"][gpu] = summary(factors_of(samples, fit), only=gpu)
            _say(f"fitted without {gpu}, on {gpu}", result["held_out_class"][gpu])
    return result


def _compared(data: Mapping[str, Any]) -> Iterable[Compared]:
    for name, raw in data.items():
        found = match(name)
        if found is None:
            print(f"{name}: not in the zoo")
            continue
        each = compare(name, found, raw)
        print(_line(each), flush=True)
        yield each


def compare(name: str, found: Match, raw: Mapping[str, Any]) -> Compared:
    """A network at the frame that fits, and its data on every class that the catalogue has."""
    frame, split = _best_frame(found.entry, raw["cut_bytes"])
    work = Work(kernels_of(split.network, split.network.whole))
    known = {gpu.name for gpu in CATALOGUE}
    samples = [
        _sample(name, gpu, int(slices), work, rows)
        for gpu, tables in raw["block_latency_us"].items()
        for slices, rows in tables.items()
        if gpu in known
    ]
    share = explained(split, raw["cut_bytes"]) / max(len(raw["cut_bytes"]), 1)
    return Compared(
        name=name,
        match=found,
        frame=frame,
        explained=share,
        samples=tuple(sample for sample in samples if sample.slices == 1),
        sliced=tuple(sample for sample in samples if sample.slices > 1),
    )


def _sample(name: str, gpu: str, slices: int, work: Work, rows: Sequence[Sequence[float]]) -> Sample:
    sizes = range(1, min(LARGEST_BATCH, *map(len, rows)) + 1)
    total = np.array([sum(row[batch - 1] for row in rows) for batch in sizes], dtype=np.float64)
    return Sample(name, gpu, work, tuple(sizes), total, slices)


def _best_frame(each: ZooEntry, cut_bytes: Sequence[int]) -> tuple[Frame, Split]:
    best: tuple[int, Frame, Split] | None = None
    for frames in (frames_of(each), other_frames(each)):
        for frame in frames:
            split = split_model(each.spec(shape=frame), device="meta")
            count = explained(split, cut_bytes)
            if best is None or count > best[0]:
                best = (count, frame, split)
            if count == len(cut_bytes):
                return frame, split
        if best is not None and best[0] >= EXPLAINED * len(cut_bytes):
            break
    if best is None:
        raise AssertionError("every entry has a frame of its own")
    return best[1], best[2]


def frames_of(each: ZooEntry) -> list[Frame]:
    """The entry's own frame, one of half the height and width, and for classifiers one 8 / 7 as wide."""
    channels, height, width = each.shape
    frames: list[Frame] = [each.shape]
    if each.task == "classification":
        if not each.sized:
            frames.append((channels, height, width * 8 // 7))
    else:
        frames.append((channels, height // 2, width // 2))
    return frames


def other_frames(each: ZooEntry) -> list[Frame]:
    """Frames that networks of the task are also served with."""
    channels = each.shape[0]
    sizes = {
        "classification": [(224, 224), (256, 256), (288, 288), (384, 384)],
        "detection": [(512, 512), (800, 1344), (320, 320)],
        "segmentation": [(512, 512), (769, 769), (1024, 2048)],
        "colorization": [(224, 224), (512, 512)],
    }[each.task]
    return [(channels, height, width) for height, width in sizes if (height, width) != each.shape[1:]]


def explained(split: Split, cut_bytes: Sequence[int]) -> int:
    """How many of the cuts have the size of what lives across some place of the graph."""
    sizes = {
        BYTES_PER_NUMBER * sum(value.numbers for value in cut.values) for cut in split.network.valid_cuts
    }
    return sum(size in sizes for size in cut_bytes)


def factors_of(samples: Sequence[Sample], fit: Fit) -> dict[tuple[str, str, int], float]:
    """Estimate / measurement of every network, class and batch size."""
    return {
        (sample.network, sample.gpu, batch): float(estimated / measured)
        for sample in samples
        for batch, estimated, measured in zip(
            sample.batch_sizes, fit.estimate(sample), sample.measured_us, strict=True
        )
    }


def summary(factors: Factors, only: str | None = None) -> dict[str, Any]:
    """Median errors over all networks and batch sizes, of all classes or of one."""
    wanted = {key: value for key, value in factors.items() if only in (None, key[1])}
    calibrated = [
        abs(value / factors[network, other, batch] - 1)
        for (network, gpu, batch), value in wanted.items()
        for other in sorted({key[1] for key in factors})
        if other != gpu and (network, other, batch) in factors
    ]
    ratios = [
        abs(value / factors[network, REFERENCE, batch] - 1)
        for (network, gpu, batch), value in wanted.items()
        if gpu != REFERENCE and (network, REFERENCE, batch) in factors
    ]
    return {
        "median_error": statistics.median(abs(value - 1) for value in wanted.values()),
        "median_error_calibrated": statistics.median(calibrated) if calibrated else None,
        "median_ratio_error": statistics.median(ratios) if ratios else None,
    }


def errors_per_network(factors: Factors) -> dict[str, dict[str, float]]:
    """Median errors per network and class."""
    grouped: dict[str, dict[str, list[float]]] = {}
    for (network, gpu, _), value in factors.items():
        grouped.setdefault(network, {}).setdefault(gpu, []).append(abs(value - 1))
    return {
        network: {gpu: round(statistics.median(values), 4) for gpu, values in sorted(classes.items())}
        for network, classes in grouped.items()
    }


def _slices(compared: Sequence[Compared], fit: Fit) -> dict[str, float]:
    """Median errors on one of n slices, by class and n; of networks that the zoo has."""
    grouped: dict[str, list[float]] = {}
    for sample in (sample for each in compared if each.match.same for sample in each.sliced):
        errors = np.abs(fit.estimate(sample) / sample.measured_us - 1)
        grouped.setdefault(f"1/{sample.slices} {sample.gpu}", []).extend(errors.tolist())
    return {key: round(statistics.median(errors), 4) for key, errors in sorted(grouped.items()) if errors}


def _shown(errors: Mapping[str, float]) -> str:
    return ", ".join(f"{what} {error:.0%}" for what, error in errors.items())


def _substitutes(compared: Sequence[Compared]) -> dict[str, Any]:
    """Errors of models that only a network of the same family stands for."""
    found = {}
    for each in compared:
        if not each.match.same and each.samples:
            factors = factors_of(each.samples, catalogued({sample.gpu for sample in each.samples}))
            found[each.name] = {
                "stands_for_it": each.match.entry.name,
                **errors_per_network(factors)[each.name],
            }
    return found


def _line(each: Compared) -> str:
    factors = factors_of(each.samples, catalogued({sample.gpu for sample in each.samples}))
    shown = _shown(errors_per_network(factors).get(each.name, {}))
    family = "" if each.match.same else f" (of its family: {each.match.entry.name})"
    return (
        f"{each.name[:34]:34s}{family} frame {each.frame[1]}x{each.frame[2]} "
        f"({each.explained:.0%} of the cuts): median error {shown}"
    )


def _say(what: str, result: Mapping[str, Any]) -> None:
    shown = [f"median error {result['median_error']:.1%}"]
    if result["median_error_calibrated"] is not None:
        shown.append(f"calibrated by another class {result['median_error_calibrated']:.1%}")
    if result["median_ratio_error"] is not None:
        shown.append(f"ratios to {REFERENCE} {result['median_ratio_error']:.1%}")
    print(f"{what}: {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
