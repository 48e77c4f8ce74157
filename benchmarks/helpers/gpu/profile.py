"""Profiles of four networks of the zoo on this device, in both kinds of program; and slices of the device.

Each row is kept when it is there, so that a part that is cut short goes on with the next one.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.helpers.kept import Kept
from benchmarks.helpers.networks.onnx_zoo import export
from ensembles.zoo.catalogue import ZooEntry, entry
from planner.deployment import ModelSpec, ProgramSpec
from planner.execution import ExecutorOptions, Precision, Provider
from planner.profiling.gpus import find_gpu
from planner.profiling.measuring.measure import Measurement, MeasureOptions, measure
from planner.profiling.measuring.mps import SliceJob, measure_slices
from planner.profiling.measuring.timing import device_name
from planner.profiling.roofline import estimated_tables
from planner.profiling.split import Split, split_model
from python_backend.stage.executors.prepare import prepare

NETWORKS = ("inceptionv3", "wide_resnet101_2", "convnext_large", "centernet_r50")
REHEARSED = ZooEntry(
    name="small", factory=f"{__package__}.small_net:small_net", shape=(3, 32, 32), task="classification"
)
"""Not of the zoo."""
PRECISIONS = (Precision.TF32, Precision.FP16)
BATCHES = (1, 4)


def rows(device: str, kept: Path, rehearse: bool) -> list[Mapping[str, Any]]:
    """A row for each network, kind and precision."""
    results = Kept(kept, {"device": device_name(device, 1), "rehearsal": rehearse})
    for each in (REHEARSED,) if rehearse else tuple(map(entry, NETWORKS)):
        for kind in ("torch", "onnx"):
            for row in _rows_of(each, kind, device, rehearse, results):
                results.add(f"{each.name} {kind} {row['precision']}", row)
    return list(results.named(""))


def _rows_of(
    each: ZooEntry, kind: str, device: str, rehearse: bool, known: Kept
) -> Iterator[Mapping[str, Any]]:
    wanted = [precision for precision in PRECISIONS if f"{each.name} {kind} {precision.value}" not in known]
    if not wanted:
        return
    spec = each.spec(preprocess=None, postprocess=None)
    with tempfile.TemporaryDirectory(prefix="ppipe-gpu-") as folder:
        if kind == "onnx":
            if importlib.util.find_spec("onnxscript") is None:
                for precision in wanted:
                    row = {"network": each.name, "kind": kind, "precision": precision.value}
                    yield row | {"why": "no onnxscript, with which torch.onnx exports"}
                return
            file = Path(folder) / f"{each.name}.onnx"
            export(each, each.shape, file)
            spec = spec.model_copy(update={"program": ProgramSpec(onnx=file)})
        split = split_model(spec)
        for precision in wanted:
            yield _row(split, kind, precision, device, rehearse)


def _row(split: Split, kind: str, precision: Precision, device: str, rehearse: bool) -> Mapping[str, Any]:
    row = {"network": split.model, "kind": kind, "precision": precision.value, "blocks": split.block_count}
    options = options_of(kind, precision)
    if options is None:
        return row | {"why": "fp16 of ONNX needs TensorRT, which this onnxruntime has not"}
    how = MeasureOptions(
        device=device,
        repeats=1 if rehearse else 7,
        warm_up=1 if rehearse else 2,
        executor=options,
        prepare=prepare,
        repeat_check=True,
    )
    found = measure(split, BATCHES, how)
    return row | {
        "ms": {str(batch): round(us / 1e3, 3) for batch, us in _totals(found).items()},
        "repeats_within": None if found.repeatability is None else round(found.repeatability, 4),
        "throttled": dict(found.throttled),
        "estimate_over_measured": _estimated(split, precision, found),
    }


def options_of(kind: str, precision: Precision) -> ExecutorOptions | None:
    """How a program of a kind is run in a precision; None where it cannot be."""
    if kind == "torch" or precision is not Precision.FP16:
        return ExecutorOptions(precision=precision)
    import onnxruntime

    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        return None
    return ExecutorOptions(precision=precision, provider=Provider.TENSORRT)


def _totals(found: Measurement) -> Mapping[int, float]:
    """Microseconds of the whole network, by batch size."""
    return {
        batch: sum(row[column] for row in found.latency_us) for column, batch in enumerate(found.batch_sizes)
    }


def _estimated(split: Split, precision: Precision, found: Measurement) -> Any:
    """By batch size; why not, where the catalogue has no such class."""
    if not torch.cuda.is_available():
        return "no GPU"
    try:
        find_gpu(torch.cuda.get_device_name())
    except KeyError:
        return f"{torch.cuda.get_device_name()} is not in the catalogue"
    (table,) = estimated_tables(split, torch.cuda.get_device_name(), found.batch_sizes, precision=precision)
    totals = _totals(found)
    return {
        str(batch): round(sum(row[column] for row in table.latency_us) / totals[batch], 3)
        for column, batch in enumerate(found.batch_sizes)
    }


def slices_over_whole(device: str, rehearse: bool) -> Mapping[str, Any]:
    """By number of slices: median time of the network on one while the others are as busy, over the whole."""
    each = REHEARSED if rehearse else entry("inceptionv3")
    spec: ModelSpec = each.spec(preprocess=None, postprocess=None, blocks=1)
    how = MeasureOptions(device=device, repeats=2 if rehearse else 7, warm_up=1, prepare=prepare)
    counts = (1, 2) if rehearse else (1, 2, 4)
    job = SliceJob(spec=spec, classes=(), options=how, batch_sizes=(1,))
    times = {count: measure_slices(job, count).latency_us for count in counts}
    whole = sum(row[0] for row in times[1])
    ratios = {str(count): round(sum(row[0] for row in found) / whole, 3) for count, found in times.items()}
    return {"network": each.name, "slice_over_whole": ratios, "median": statistics.median(ratios.values())}
