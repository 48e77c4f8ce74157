"""Estimated against measured latencies: the zoo's networks on the GPU classes of a data folder (ppipe.paper).

Whole models on whole GPUs, batch 1 to 8. error: |estimate / measurement - 1|. calibrated: the same after
scaling a network's estimates by its measurement / estimate on one other class, every ordered pair of classes.
ratio: the error of latency ratios between a class and L4.

The data does not give frame sizes. Of a few plausible ones, the size is taken whose feature maps explain most
of the data's cuts (two bytes per number).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensembles.zoo.catalogue import ZOO, ZooEntry
from planner.profiling.costs import elements
from planner.profiling.gpus import CATALOGUE, find_gpu
from planner.profiling.kernels import Kernel, kernels_of
from planner.profiling.roofline import kernels_us
from planner.profiling.split import Split, split_model

BYTES_PER_NUMBER = 2
REFERENCE = "L4"
BATCHES = range(1, 9)
Point = tuple[str, int]
"""GPU class, batch size."""


@dataclass(frozen=True)
class Compared:
    """One network: measured and estimated microseconds per class and batch size."""

    name: str
    frame: tuple[int, ...]
    measured: Mapping[Point, float]
    estimated: Mapping[Point, float]

    def errors(self) -> dict[Point, float]:
        """|estimate / measurement - 1|."""
        return {point: abs(self.estimated[point] / self.measured[point] - 1) for point in self.measured}

    def calibrated_errors(self) -> list[float]:
        """Errors after calibration by one other class at the same batch size."""
        return [
            abs(self._factor(point) / self._factor((other, point[1])) - 1)
            for point in self.measured
            for other, batch in self.measured
            if batch == point[1] and other != point[0]
        ]

    def ratio_errors(self) -> list[float]:
        """Errors of latency relative to the reference class."""
        return [
            abs(self._factor(point) / self._factor((REFERENCE, point[1])) - 1)
            for point in self.measured
            if point[0] != REFERENCE and (REFERENCE, point[1]) in self.measured
        ]

    def _factor(self, point: Point) -> float:
        return self.estimated[point] / self.measured[point]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print errors per network and class; the last line is JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with models.json")
    parser.add_argument("--json", action="store_true", help="a JSON object as the last line")
    chosen = parser.parse_args(arguments)
    data = json.loads((chosen.data / "models.json").read_text(encoding="utf-8"))
    compared = []
    for name, raw in data.items():
        each = zoo_entry_for(name)
        if each is None:
            print(f"{name}: not in the zoo")
            continue
        compared.append(compare(name, each, raw))
        print(_line(compared[-1]), flush=True)
    if not compared:
        raise SystemExit(f"{chosen.data}: no network of the data is in the zoo")
    result = summary(compared)
    print(
        f"median error {result['median_error']:.1%}, calibrated by another class "
        f"{result['median_error_calibrated']:.1%}, ratios to {REFERENCE} {result['median_ratio_error']:.1%}"
    )
    if chosen.json:
        print(json.dumps(result))


def zoo_entry_for(name: str) -> ZooEntry | None:
    """The zoo's network of that family: by the first word of its name, or two where that is not enough."""
    plain = _plain(name)
    candidates = [each for each in ZOO if plain.startswith(_family(each.name))]
    return max(candidates, key=lambda each: len(_family(each.name)), default=None)


def compare(name: str, each: ZooEntry, raw: Mapping[str, Any]) -> Compared:
    """Estimate a network on every class of its data that the catalogue has."""
    splits = {frame: split_model(each.spec(shape=frame), device="meta") for frame in frames_of(each)}
    frame = max(splits, key=lambda shape: explained(splits[shape], raw["cut_bytes"]))
    kernels = kernels_of(splits[frame].graph, splits[frame].graph.operators)
    measured = {}
    for gpu, slices in raw["block_latency_us"].items():
        if gpu in {known.name for known in CATALOGUE} and "1" in slices:
            rows = slices["1"]
            for batch in BATCHES:
                if all(len(row) >= batch for row in rows):
                    measured[gpu, batch] = float(sum(row[batch - 1] for row in rows))
    return Compared(name=name, frame=frame, measured=measured, estimated=_estimates(kernels, measured))


def frames_of(each: ZooEntry) -> list[tuple[int, int, int]]:
    """The entry's own frame, one of half the height and width, and for classifiers one 8 / 7 as wide."""
    channels, height, width = each.shape
    frames = [each.shape]
    if each.task == "classification":
        if not each.sized:
            frames.append((channels, height, width * 8 // 7))
    else:
        frames.append((channels, height // 2, width // 2))
    return frames


def explained(split: Split, cut_bytes: Sequence[int]) -> int:
    """How many of the cuts have the size of what lives across some place of the graph."""
    sizes = {
        BYTES_PER_NUMBER * sum(elements(node.meta["val"]) for node in cut.tensors)
        for cut in split.graph.valid_cuts
    }
    return sum(size in sizes for size in cut_bytes)


def summary(compared: Sequence[Compared]) -> dict[str, Any]:
    """Medians over all networks, classes and batch sizes, and the errors per network and class."""
    per_model = {}
    for each in compared:
        errors = each.errors()
        per_model[each.name] = {
            gpu: round(statistics.median(errors[point] for point in errors if point[0] == gpu), 4)
            for gpu in sorted({point[0] for point in errors})
        }
    return {
        "median_error": statistics.median(value for each in compared for value in each.errors().values()),
        "median_error_calibrated": statistics.median(
            value for each in compared for value in each.calibrated_errors()
        ),
        "median_ratio_error": statistics.median(value for each in compared for value in each.ratio_errors()),
        "errors": per_model,
    }


def _estimates(kernels: Sequence[Kernel], points: Mapping[Point, float]) -> dict[Point, float]:
    return {
        (gpu, batch): kernels_us(kernels, find_gpu(gpu), slices=1, batch_size=batch) for gpu, batch in points
    }


def _family(name: str) -> str:
    """'gcnetr101' is of the family 'gcnet': the depth is the backbone's."""
    words = name.split("_")
    return _plain("".join(word for word in words if not (word[0] == "r" and word[1:].isdigit())))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _line(each: Compared) -> str:
    errors = each.errors()
    gpus = sorted({point[0] for point in errors})
    shown = ", ".join(
        f"{gpu} {statistics.median(errors[point] for point in errors if point[0] == gpu):.0%}" for gpu in gpus
    )
    return f"{each.name[:34]:34s} frame {each.frame[1]}x{each.frame[2]}: median error {shown}"


if __name__ == "__main__":
    main()
