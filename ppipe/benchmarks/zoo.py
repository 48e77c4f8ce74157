"""All networks of the zoo: export, blocks, cuts, estimated latencies, and whether the split one gives the
same answers.

Splits and estimates are of the full frame size and need no weights. Answers are compared on small frames
(--full: full size) at batch 1, 2 and 8, with random weights, block after block: every cut at once.
max_rel_error is the largest difference as a share of the output's range, in double precision.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ensembles.zoo.catalogue import ZOO, ZooEntry, entry
from ensembles.zoo.liveliness import noise_frames
from planner.plan import BlockRange
from planner.profiling.network import load_network
from planner.profiling.roofline import estimated_tables
from planner.profiling.split import split_model
from planner.profiling.stages import stage_module

Shape = tuple[int, int, int]
CLASSES = ("L4", "T4", "V100", "A100")
BATCHES = (1, 2, 8)
SMALL = {
    "classification": (3, 64, 64),
    "segmentation": (3, 64, 128),
    "detection": (3, 128, 128),
    "colorization": (1, 64, 64),
}
SMALLEST = {"inceptionv3": (3, 107, 107)}
"""Where the task's small frame is too small for the network."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per network; with --json a list of objects as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="networks; all without any")
    parser.add_argument("--json", action="store_true", help="a JSON list as the last line")
    parser.add_argument("--full", action="store_true", help="compare answers at the full frame size")
    parser.add_argument("--no-check", action="store_true", help="only estimate: no weights needed")
    chosen = parser.parse_args(arguments)
    entries = [entry(name) for name in chosen.names] or list(ZOO)
    rows = []
    for each in entries:
        row = estimate(each)
        if not chosen.no_check:
            row |= check(each, full=chosen.full)
        rows.append(row)
        print(_line(row), flush=True)
        gc.collect()
    if chosen.json:
        print(json.dumps(rows))


def estimate(each: ZooEntry) -> dict[str, Any]:
    """Blocks, cuts and estimated latencies of one network, without weights."""
    started = time.perf_counter()
    split = split_model(each.spec(), device="meta")
    tables = [table for name in CLASSES for table in estimated_tables(split, name, (1,))]
    return {
        "model": each.name,
        "task": each.task,
        "frame": list(each.shape),
        "note": each.note,
        "blocks": split.block_count,
        "bounds": [split.lower, split.upper],
        "cut_bytes": [cut.bytes_per_frame for cut in split.cuts],
        "cut_tensors": [len(cut.tensors) for cut in split.cuts],
        "estimated_ms": {
            table.gpu: round(sum(row[0] for row in table.latency_us) / 1000, 2) for table in tables
        },
        "seconds": round(time.perf_counter() - started, 1),
    }


def check(each: ZooEntry, *, full: bool) -> dict[str, float]:
    """The largest difference between split and unsplit answers, as a share of the output's range.

    In double precision, which shows the split alone, and in single: random weights magnify rounding, by 1e4
    and more in deep networks without skips.
    """
    shape = each.shape if full else SMALLEST.get(each.name, SMALL[each.task])
    model = each.spec(shape=shape)
    split = split_model(model)
    network = load_network(model)
    blocks = [stage_module(split, BlockRange(k, k + 1)) for k in range(split.block_count)]
    single = _difference(network, blocks, shape, torch.float32)
    double = _difference(network.double(), [block.double() for block in blocks], shape, torch.float64)
    return {"max_rel_error": double, "max_rel_error_fp32": single}


def _difference(
    network: torch.nn.Module,
    blocks: Sequence[torch.nn.Module],
    shape: tuple[int, int, int],
    dtype: torch.dtype,
) -> float:
    worst = 0.0
    for batch in BATCHES:
        frames = torch.cat([noise_frames(shape, seed=batch + k)[:1] for k in range(batch)]).to(dtype)
        values: tuple[torch.Tensor, ...] = (frames,)
        with torch.inference_mode():
            expected = pytree.tree_leaves(network(*values))
            for block in blocks:
                values = block(*values)
        for actual, wanted in zip(values, expected, strict=True):
            worst = max(worst, float((actual - wanted).abs().max() / (wanted.max() - wanted.min())))
    return worst


def _line(row: dict[str, Any]) -> str:
    estimates = " ".join(f"{name} {value:7.2f}" for name, value in row["estimated_ms"].items())
    error = (
        f"  split/unsplit {row['max_rel_error']:.0e}, fp32 {row['max_rel_error_fp32']:.0e}"
        if "max_rel_error" in row
        else ""
    )
    return (
        f"{row['model']:18s} {row['blocks']:3d} blocks, cuts of {min(row['cut_bytes']) / 1e6:5.2f} to "
        f"{max(row['cut_bytes']) / 1e6:5.2f} MB; estimated ms: {estimates}{error}  ({row['seconds']:.0f} s)"
    )


if __name__ == "__main__":
    main()
