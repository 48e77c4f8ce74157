"""From a deployment's measured classes to tables, and what is recorded of how they were made."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from planner.cluster import GpuClass
from planner.deployment import ModelSpec
from planner.execution import ExecutorOptions
from planner.profile import LatencyTable, Source
from planner.profiling.measuring.beside import measure_beside, worse_of
from planner.profiling.measuring.measure import Measurement, MeasureOptions, Step, identity_of, measure
from planner.profiling.measuring.mps import SliceJob, measure_slices
from planner.profiling.measuring.partial import Partial
from planner.profiling.split import Split

Measured = Mapping[int, Measurement]
"""By slices per GPU."""

REPEATABLE = 0.03
"""Difference between two measurements of a GPU that is still as it should be."""

log = logging.getLogger(__name__)


def measure_device(
    spec: ModelSpec,
    split: Split,
    classes: tuple[GpuClass, ...],
    slices: Sequence[int],
    options: MeasureOptions,
    step: Step,
    partial: Path | None,
    neighbours: Sequence[ModelSpec] = (),
) -> Measured:
    """One model on one device, whole and in each of these numbers of slices; of slices the worse of beside
    the same model and beside each of `neighbours`.
    """
    made: dict[int, Measurement] = {}
    for count in slices:
        identity = identity_of(split, options, count)
        if count == 1:
            kept = Partial(partial, identity)
            made[count] = measure(split, spec.batch_sizes, options, step, kept)
        else:
            job = SliceJob(spec=spec, classes=classes, options=options, batch_sizes=spec.batch_sizes)
            each = [Partial(partial, {**identity, "process": str(index)}) for index in range(count)]
            own = measure_slices(job, count, step, each)
            others = [
                measure_beside(
                    job,
                    _job_of(other, job),
                    count,
                    step,
                    Partial(partial, {**identity, "beside": other.name}),
                )
                for other in neighbours
            ]
            made[count] = worse_of(own, others) if others else own
    return made


def _job_of(other: ModelSpec, job: SliceJob) -> SliceJob:
    """The same for another model."""
    executor, stop_us = other.executor_options.to_options(), other.slo_ms * 1000
    options = replace(job.options, executor=executor, stop_us=stop_us)
    return replace(job, spec=other, options=options, batch_sizes=other.batch_sizes)


def measured_tables(gpu_class: GpuClass, measured: Measured) -> list[LatencyTable]:
    """The tables of a class that is this device."""
    return [
        LatencyTable(
            gpu=gpu_class.name,
            slices_per_gpu=slices,
            batch_sizes=found.batch_sizes,
            latency_us=found.latency_us,
            source=Source.MEASURED,
            spread=found.spread,
            beside_own_us=found.beside_own_us,
            beside_others_us=found.beside_others_us,
        )
        for slices, found in measured.items()
        if slices <= gpu_class.max_slices_per_gpu
    ]


def provenance_of(
    model: str, measured: Measured, options: MeasureOptions, executor: ExecutorOptions
) -> dict[str, str]:
    """How the tables of one device were made; what is wrong with them is a warning too."""
    whole = measured[1]
    totals = {
        str(batch): round(sum(row[column] for row in whole.latency_us), 1)
        for column, batch in enumerate(whole.batch_sizes)
    }
    found = {
        "device": whole.device,
        "device_model_us": json.dumps(totals),
        "device_block_us": json.dumps([[round(value, 1) for value in row] for row in whole.latency_us]),
        "device_notes": "; ".join(whole.notes),
        "precision": executor.precision.value,
        "threads": str(options.threads),
        "repeats": str(options.rounds),
    }
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    for slices, measurement in measured.items():
        suffix = "" if slices == 1 else f"_slices_{slices}"
        found |= {f"{name}{suffix}": value for name, value in measurement.facts.items()}
        if slices > 1 and measurement.notes:
            found[f"device_notes{suffix}"] = "; ".join(measurement.notes)
        found |= {f"{name}{suffix}": text for name, text in _warnings(model, slices, measurement).items()}
        if measurement.repeatability is not None:
            found[f"repeatability{suffix}"] = f"{measurement.repeatability:.4f}"
    return found


def _warnings(model: str, slices: int, measurement: Measurement) -> dict[str, str]:
    where = f"model {model} on {measurement.device}" + (f" in {slices} slices" if slices > 1 else "")
    said = {}
    if measurement.throttled:
        reasons = ", ".join(
            f"{name} in {share:.0%} of samples" for name, share in measurement.throttled.items()
        )
        said["throttled"] = reasons
        log.warning("%s: the GPU held itself back while it was timed: %s", where, reasons)
    if measurement.repeatability is not None and measurement.repeatability > REPEATABLE:
        text = f"measured again, it differs by {measurement.repeatability:.1%} (wanted: {REPEATABLE:.0%})"
        said["warning_repeatability"] = text
        log.warning("%s: %s", where, text)
    return said
