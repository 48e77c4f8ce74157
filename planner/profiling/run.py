"""Profile a deployment: split every model, then a latency table per GPU class, stated or measured here.

Rules
- A class with a stated speed gets a STATED table. This device's own times are kept in `provenance`, and a
  warning if they are longer, because padding cannot make a worker faster.
- A class without one is measured when this device is of that kind; nothing is invented for the others.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from planner.cluster import Executor, GpuClass, StatedSpeed
from planner.deployment import Deployment, ModelSpec
from planner.plan import BlockRange
from planner.profile import LatencyTable, ModelProfile, Overheads, Profile, Source
from planner.profiling.costs import tensor_bytes
from planner.profiling.estimate import latency_us
from planner.profiling.graph import ModelGraph
from planner.profiling.measure import Measurement, MeasureOptions, measure
from planner.profiling.network import ModelError
from planner.profiling.split import Split, split_model

Progress = Callable[[str, int, int], None]
"""Called with what was just done, and how many of how many steps are done."""

log = logging.getLogger(__name__)


class ProfileError(ModelError):
    """A GPU class that this machine can neither measure nor look up."""


@dataclass(frozen=True)
class ProfileOptions:
    """How to profile.

    `check_stated`: time stated classes on this device too, to see that it is fast enough.
    """

    threads: int = 1
    repeats: int = 7
    check_stated: bool = True
    overheads: Overheads = field(default_factory=Overheads)


def profile_deployment(
    deployment: Deployment, progress: Progress | None = None, options: ProfileOptions | None = None
) -> Profile:
    """Split and profile every model of a deployment. Raises ModelError, ProfileError."""
    options = options or ProfileOptions()
    classes = deployment.to_cluster().gpu_classes
    for gpu_class in classes:
        _require_source(gpu_class, classes)
    steps = _Steps(progress, total=len(deployment.models) * (2 + options.repeats))
    models = []
    for spec in deployment.models:
        split = split_model(spec, classes)
        steps.done(f"{spec.name}: {split.block_count} blocks")
        models.append(_profile(spec, split, classes, options, steps))
        steps.done(f"{spec.name}: profiled")
    return Profile(models=tuple(models))


def split_of(deployment: Deployment, model: str) -> Split:
    """The split that `profile_deployment` profiles: the same cuts, whatever the machine.

    Raises ModelError, KeyError.
    """
    return split_model(deployment.model(model), deployment.to_cluster().gpu_classes)


def _profile(
    spec: ModelSpec, split: Split, classes: tuple[GpuClass, ...], options: ProfileOptions, steps: _Steps
) -> ModelProfile:
    measured = _measure(spec, split, classes, options, steps)
    tables: list[LatencyTable] = []
    provenance = {
        "torch": torch.__version__,
        "split_bounds": f"{split.lower:g} to {split.upper:g} of the average",
    }
    for gpu_class in classes:
        if gpu_class.stated is not None:
            tables += stated_tables(split, gpu_class, gpu_class.stated, spec.batch_sizes)
        elif measured is not None:
            tables.append(_measured_table(gpu_class, measured))
    if measured is not None:
        provenance |= _provenance(measured) | _too_slow(spec.name, classes, tables, measured)
    return ModelProfile(
        model=spec.name,
        cut_bytes=tuple(cut.bytes_per_frame for cut in split.cuts),
        tables=tuple(tables),
        block_names=tuple(map(split.name_of, range(split.block_count))),
        cut_tensors=split.cut_tensors,
        inputs=(split.input,),
        outputs=split.outputs,
        weight_bytes=tuple(weight_bytes(split, block) for block in range(split.block_count)),
        activation_bytes=tuple(activation_bytes(split, block) for block in range(split.block_count)),
        overheads=options.overheads,
        split=split.digest,
        provenance=provenance,
    )


def stated_tables(
    split: Split, gpu_class: GpuClass, speed: StatedSpeed, batch_sizes: tuple[int, ...]
) -> list[LatencyTable]:
    """The roofline's tables for whole GPUs and their slices; a slice has its share of both speeds."""
    costs = [split.cost(block) for block in range(split.block_count)]
    sizes = tuple(sorted(set(batch_sizes)))
    tables = []
    for slices in range(1, gpu_class.max_slices_per_gpu + 1):
        share = StatedSpeed(
            gflop_per_s=speed.gflop_per_s / slices,
            gbyte_per_s=speed.gbyte_per_s / slices,
            overhead_us=speed.overhead_us,
        )
        tables.append(
            LatencyTable(
                gpu=gpu_class.name,
                slices_per_gpu=slices,
                batch_sizes=sizes,
                latency_us=tuple(tuple(latency_us(cost, share, batch) for batch in sizes) for cost in costs),
                source=Source.STATED,
            )
        )
    return tables


def weight_bytes(split: Split, block: int) -> int:
    """Bytes of the weights that a block reads, each counted once."""
    graph = split.graph
    used = {arg for node in split.operators(BlockRange(block, block + 1)) for arg in node.all_input_nodes}
    return sum(tensor_bytes(graph.weights[node]) for node in used if node in graph.weights)


def activation_bytes(split: Split, block: int) -> int:
    """The most bytes of one frame's values alive at once inside a block, its inputs and outputs included."""
    graph: ModelGraph = split.graph
    operators = split.operators(BlockRange(block, block + 1))
    first = graph.operators.index(operators[0])
    peak = 0
    for position, node in enumerate(operators, start=first):
        read = {arg for arg in node.all_input_nodes if arg in graph.carried}
        alive = read | set(graph.live_after(position)) | {node}
        peak = max(peak, sum(tensor_bytes(value.meta.get("val")) for value in alive))
    return peak


def _require_source(gpu_class: GpuClass, classes: tuple[GpuClass, ...]) -> None:
    """Raise ProfileError for a class whose latencies can come from nowhere."""
    if gpu_class.stated is not None or gpu_class.executor is Executor.CPU:
        return
    if gpu_class.executor is Executor.EMULATED:
        raise ProfileError(
            f"gpu_classes: {gpu_class.name}: executor 'emulated' computes nothing that could be measured; "
            "give "
            "'stated' (gflop_per_s, gbyte_per_s) or a profile made elsewhere"
        )
    if not torch.cuda.is_available():
        raise ProfileError(
            f"gpu_classes: {gpu_class.name}: no GPU on this machine to measure; profile on a node of that "
            "class, or "
            "give 'stated' (gflop_per_s, gbyte_per_s)"
        )
    others = [other.name for other in classes if other.executor is Executor.CUDA and other.stated is None]
    if len(others) > 1:
        raise ProfileError(
            f"gpu_classes: {', '.join(others)}: this machine has one kind of GPU, "
            f"{torch.cuda.get_device_name()}; "
            "profile each class on a node of its own, or give 'stated'"
        )


def _measure(
    spec: ModelSpec, split: Split, classes: tuple[GpuClass, ...], options: ProfileOptions, steps: _Steps
) -> Measurement | None:
    wanted = [gpu_class for gpu_class in classes if gpu_class.stated is None]
    padded = [gpu_class for gpu_class in classes if gpu_class.stated and gpu_class.executor is Executor.CPU]
    if not wanted and not (padded and options.check_stated):
        for _ in range(options.repeats):
            steps.done(f"{spec.name}: stated")
        return None
    cuda = any(gpu_class.executor is Executor.CUDA for gpu_class in wanted)
    how = MeasureOptions(
        device="cuda" if cuda else "cpu",
        threads=options.threads,
        repeats=options.repeats,
        stop_us=spec.slo_ms * 1000,
    )
    return measure(split, spec.batch_sizes, how, steps.done)


def _measured_table(gpu_class: GpuClass, measured: Measurement) -> LatencyTable:
    return LatencyTable(
        gpu=gpu_class.name,
        slices_per_gpu=1,
        batch_sizes=measured.batch_sizes,
        latency_us=measured.latency_us,
        source=Source.MEASURED,
    )


def _provenance(measured: Measurement) -> dict[str, str]:
    totals = {
        str(batch): round(sum(row[column] for row in measured.latency_us), 1)
        for column, batch in enumerate(measured.batch_sizes)
    }
    return {
        "device": measured.device,
        "device_model_us": json.dumps(totals),
        "device_block_us": json.dumps([[round(value, 1) for value in row] for row in measured.latency_us]),
        "device_notes": "; ".join(measured.notes),
    }


def _too_slow(
    model: str, classes: tuple[GpuClass, ...], tables: list[LatencyTable], measured: Measurement
) -> dict[str, str]:
    """A warning per padded class whose stated whole-model latency this device does not reach."""
    warnings = {}
    padded = {
        gpu_class.name for gpu_class in classes if gpu_class.stated and gpu_class.executor is Executor.CPU
    }
    for table in tables:
        if table.gpu not in padded or table.slices_per_gpu != 1:
            continue
        for column, batch in enumerate(measured.batch_sizes):
            real = sum(row[column] for row in measured.latency_us)
            stated = sum(row[table.batch_sizes.index(batch)] for row in table.latency_us)
            if real > stated:
                text = (
                    f"model {model}: class {table.gpu} is stated to take {stated / 1000:.1f} ms for a batch "
                    f"of {batch}, "
                    f"and {measured.device} takes {real / 1000:.1f} ms: it will be late; state a slower speed"
                )
                log.warning("%s", text)
                warnings[f"warning_{table.gpu}"] = text
    return warnings


class _Steps:
    """Counts steps for a progress bar."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def done(self, label: str) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(label, self._done, self._total)
