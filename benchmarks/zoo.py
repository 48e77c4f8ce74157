"""All networks of the zoo: export, blocks, cuts, estimated latencies, and whether the split one gives the
same answers.

Splits and estimates are of the full frame size and need no weights. Answers are compared (zoo_check) on small
frames (--full: the networks' own size) at batch 1, 2 and 8, with random weights, in float32, block after
block: every cut at once. max_rel_error is the largest difference as a share of the output's range.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.helpers.networks.zoo_check import BATCHES, Kept, check
from benchmarks.helpers.networks.zoo_table import markdown
from ensembles.zoo.catalogue import ZOO, ZooEntry, entry
from planner.profiling.gpus import find_gpu
from planner.profiling.network import total
from planner.profiling.roofline import estimated_tables
from planner.profiling.split import split_model

CLASSES = ("L4", "T4", "V100", "A100")
WORKERS = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one line per network; with --json a list of objects as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="networks; all without any")
    parser.add_argument("--json", action="store_true", help="a JSON list as the last line")
    parser.add_argument("--full", action="store_true", help="compare answers at the full frame size")
    parser.add_argument("--no-check", action="store_true", help="only estimate: no weights needed")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="sizes to compare answers at")
    parser.add_argument("--keep", type=Path, help="folder of found answers: a stopped run goes on from there")
    parser.add_argument("--workers", type=int, default=WORKERS, help="processes that estimate")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    chosen = parser.parse_args(arguments)
    entries = [entry(name) for name in chosen.names] or list(ZOO)
    rows = estimate_all(entries, chosen.workers)
    if not chosen.no_check:
        kept = Kept(chosen.keep)
        for each, row in zip(entries, rows, strict=True):
            row |= check(each, full=chosen.full, kept=kept, batches=chosen.batches)
            print(_checked_line(row), flush=True)
            gc.collect()
    if chosen.markdown:
        chosen.markdown.write_text(markdown(rows), encoding="utf-8")
    if chosen.json:
        print(json.dumps(rows))


def estimate_all(entries: Sequence[ZooEntry], workers: int) -> list[dict[str, Any]]:
    """Rows of all networks, estimated in `workers` processes; prints time and memory of them all."""
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(workers, len(entries)), mp_context=context) as pool:
        rows = list(_printed(pool.map(_measured_estimate, entries)))
    processes = {row.pop("process"): row.pop("process_gb") for row in rows}
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{len(rows)} networks on {len(CLASSES)} classes: split and estimated in "
        f"{time.perf_counter() - started:.1f} s ({sum(row['estimate_cpu_s'] for row in rows):.1f} s of CPU "
        f"time) by {len(processes)} processes, at most {own + sum(processes.values()):.2f} GB together",
        flush=True,
    )
    return rows


def estimate(each: ZooEntry) -> dict[str, Any]:
    """Blocks, cuts and estimated latencies of one network, without weights."""
    started = time.process_time()
    split = split_model(each.spec(), device="meta")
    tables = [table for name in CLASSES for table in estimated_tables(split, name, (1,))]
    cost = total(map(split.cost, range(split.block_count)))
    return {
        "model": each.name,
        "family": each.family,
        "task": each.task,
        "package": _package(each),
        "factory": each.factory,
        "frame": list(each.shape),
        "note": each.note,
        "blocks": split.block_count,
        "bounds": [split.lower, split.upper],
        "gflop": round(cost.flops / 1e9, 1),
        "weight_mb": round(cost.weight_bytes / 1e6, 1),
        "cuts": [tensor.name for cut in split.cut_tensors for tensor in cut[-1:]],
        "cut_bytes": [cut.bytes_per_frame for cut in split.cuts],
        "cut_tensors": [len(cut.tensors) for cut in split.cuts],
        "estimated_ms": {
            table.gpu: round(sum(row[0] for row in table.latency_us) / 1000, 2) for table in tables
        },
        "expected_error": {name: find_gpu(name).expected_error() for name in CLASSES},
        "estimate_cpu_s": round(time.process_time() - started, 1),
    }


def _measured_estimate(each: ZooEntry) -> dict[str, Any]:
    row = estimate(each)
    gc.collect()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return row | {"process": os.getpid(), "process_gb": usage.ru_maxrss / 1e6}


def _package(each: ZooEntry) -> str:
    if each.package == "own":
        return "own"
    return f"{each.package} {importlib.metadata.version(each.package)}"


def _printed(rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for row in rows:
        print(_line(row), flush=True)
        yield row


def _line(row: Mapping[str, Any]) -> str:
    estimates = ", ".join(
        f"{name} {value:.2f} +-{row['expected_error'][name]:.0%}"
        for name, value in row["estimated_ms"].items()
    )
    return (
        f"{row['model']:18s} {row['blocks']:3d} blocks, cuts of {min(row['cut_bytes']) / 1e6:5.2f} to "
        f"{max(row['cut_bytes']) / 1e6:5.2f} MB; estimated ms: {estimates}"
    )


def _checked_line(row: Mapping[str, Any]) -> str:
    frame = "x".join(map(str, row["checked_frame"][1:]))
    exported, variation = row["max_rel_error_exported"], row["variation"]
    return (
        f"{row['model']:18s} split against unsplit on {frame}: {row['max_rel_error_eager']:.1e}"
        + (f", against the same exported in one piece: {exported:.1e}" if exported is not None else "")
        + (f"; answers vary by {variation:.1%}" if variation is not None else "")
        + f"; {row['check_seconds']:.0f} s, {row['peak_gb']:.1f} GB"
    )


if __name__ == "__main__":
    main()
