"""Profile a deployment: split every model, then a latency table per GPU class: stated, measured or estimated.

Rules
- A class with a stated speed gets a STATED table. This device's own times are kept in `provenance`, and a
  warning if they are longer, because padding cannot make a worker faster.
- A class without one is measured when this device is of that kind, and estimated only when that was asked
  for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from planner.cluster import Executor, GpuClass
from planner.deployment import Deployment, ModelSpec
from planner.execution import Precision
from planner.plan import BlockRange
from planner.profile import LatencyTable, ModelProfile, Overheads, Profile, Source
from planner.profiling.guesses import require_known, shares_text, unknown_shares
from planner.profiling.loading import Loaded, load_checked
from planner.profiling.measuring.measure import Measurement, MeasureOptions
from planner.profiling.measuring.measured import Measured, measure_device, measured_tables, provenance_of
from planner.profiling.network import Prepare
from planner.profiling.precision import precision_error
from planner.profiling.roofline import estimated_tables
from planner.profiling.sources import ProfileError, sources_of
from planner.profiling.split import Split, split_model, split_network
from planner.profiling.stated import stated_tables

__all__ = ["ProfileError", "ProfileOptions", "profile_deployment", "split_of"]

Progress = Callable[[str, int, int], None]
"""Called with what was just done, and how many of how many steps are done."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProfileOptions:
    """How to profile.

    `check_stated`: time stated classes on this device too, to see that it is fast enough.
    `estimate`: classes to estimate from the catalogue; `calibrate_with`: a profile of the same split,
    measured on others.
    `prepare`: how the stages' executor prepares a program; what is timed is what is served.
    `neighbours`: time slices beside other models' too, and take the worse.
    `partial`: file that keeps the timings, so that an interrupted run goes on. `repeat_check`: time twice.
    """

    threads: int = 1
    repeats: int = 7
    repeat_check: bool = False
    prepare: Prepare | None = None
    partial: Path | None = None
    check_stated: bool = True
    overheads: Overheads = field(default_factory=Overheads)
    estimate: frozenset[str] = frozenset()
    calibrate_with: Profile | None = None
    neighbours: bool = False


def profile_deployment(
    deployment: Deployment, progress: Progress | None = None, options: ProfileOptions | None = None
) -> Profile:
    """Split and profile every model of a deployment. Raises ModelError, ProfileError."""
    options = options or ProfileOptions()
    classes = deployment.to_cluster().gpu_classes
    sources = sources_of(classes, options.estimate)
    devices = _devices(classes, sources, options)
    others = _neighbours(deployment, devices, options)
    how = _measure_options(options)
    passes = sum(len(slices) + (len(slices) - 1) * _most(others) for slices in devices.values())
    steps = _Steps(progress, total=len(deployment.models) * (2 + how.rounds * passes))
    models = []
    for spec in deployment.models:
        loaded = load_checked(spec, without_weights=not devices)
        split = split_network(spec, loaded.network, classes)
        guessed = unknown_shares(split.network, classes)
        if Source.MEASURED not in sources.values():
            require_known(guessed, f"model {spec.name}")
        steps.done(f"{spec.name}: {split.block_count} blocks")
        measuring = replace(how, executor=spec.executor_options.to_options(), stop_us=spec.slo_ms * 1000)
        measured = {
            device: measure_device(
                spec,
                split,
                classes,
                slices,
                replace(measuring, device=device),
                steps.done,
                options.partial,
                others[spec.name],
            )
            for device, slices in devices.items()
        }
        model = _profile(spec, split, classes, sources, measured, options)
        model = replace(model, provenance={**model.provenance, **_noted(loaded, guessed)})
        models.append(_with_precision(model, split, measuring, measured, sources))
        steps.done(f"{spec.name}: profiled")
    return Profile(models=tuple(models))


def _neighbours(
    deployment: Deployment, devices: Mapping[str, Sequence[int]], options: ProfileOptions
) -> Mapping[str, tuple[ModelSpec, ...]]:
    """By model the others, whose stages may run beside it. Raises ProfileError where nothing can be so."""
    models = deployment.models
    if not options.neighbours:
        return {spec.name: () for spec in models}
    if len(models) < 2:
        raise ProfileError(
            f"--neighbours: {models[0].name} is the deployment's only model, so none runs beside it; leave "
            "the option out"
        )
    if all(len(slices) < 2 for slices in devices.values()):
        raise ProfileError(
            "--neighbours: no GPU class that is measured here is sliced; give one max_slices_per_gpu above "
            "1, or leave the option out"
        )
    return {spec.name: tuple(other for other in models if other is not spec) for spec in models}


def _most(others: Mapping[str, Sequence[ModelSpec]]) -> int:
    return max(map(len, others.values()), default=0)


def _noted(loaded: Loaded, guessed: Mapping[str, float]) -> dict[str, str]:
    remarks = [*loaded.remarks, *([shares_text(guessed)] if guessed else [])]
    return {"notes": "; ".join(remarks)} if remarks else {}


def _measure_options(options: ProfileOptions) -> MeasureOptions:
    return MeasureOptions(
        threads=options.threads,
        repeats=options.repeats,
        repeat_check=options.repeat_check,
        prepare=options.prepare,
    )


def _with_precision(
    model: ModelProfile,
    split: Split,
    options: MeasureOptions,
    measured: Mapping[str, Measured],
    sources: Mapping[str, Source],
) -> ModelProfile:
    """The profile with its error against FP32, on the device that was timed; a GPU's before a CPU's."""
    is_timed_only = Source.MEASURED not in sources.values()
    if not measured or (is_timed_only and options.executor.precision is Precision.TF32):
        return model  # padded classes run on a CPU, where TF32 is FP32
    device = max(measured)
    return replace(model, precision_error=precision_error(split, replace(options, device=device)))


def split_of(deployment: Deployment, model: str) -> Split:
    """The split that `profile_deployment` profiles: the same cuts, whatever the machine.

    Raises ModelError, KeyError.
    """
    return split_model(deployment.model(model), deployment.to_cluster().gpu_classes)


def _devices(
    classes: tuple[GpuClass, ...], sources: Mapping[str, Source], options: ProfileOptions
) -> Mapping[str, tuple[int, ...]]:
    """The devices of this machine to time on, 'cpu' or 'cuda', each with the numbers of slices."""
    slices: dict[str, int] = {}
    for gpu_class in classes:
        is_checked = options.check_stated and gpu_class.stated is not None
        if sources[gpu_class.name] is Source.MEASURED:
            most = gpu_class.max_slices_per_gpu
        elif is_checked and gpu_class.executor is Executor.CPU:
            most = 1
        else:
            continue
        device = gpu_class.executor.value
        slices[device] = max(most, slices.get(device, 1))
    return {device: tuple(range(1, most + 1)) for device, most in sorted(slices.items())}


def _profile(
    spec: ModelSpec,
    split: Split,
    classes: tuple[GpuClass, ...],
    sources: Mapping[str, Source],
    measured: Mapping[str, Measured],
    options: ProfileOptions,
) -> ModelProfile:
    tables: list[LatencyTable] = []
    provenance = {
        "torch": torch.__version__,
        "runtime": split.network.runtime,
        "split_bounds": f"{split.lower:g} to {split.upper:g} of the average",
    }
    for gpu_class in classes:
        if gpu_class.stated is not None:
            tables += stated_tables(split, gpu_class, gpu_class.stated, spec.batch_sizes)
        elif sources[gpu_class.name] is Source.MEASURED:
            tables += measured_tables(gpu_class, measured[gpu_class.executor.value])
    known = [*tables, *_calibrating_tables(spec.name, split, options.calibrate_with)]
    executor = spec.executor_options.to_options()
    for gpu_class in classes:
        if sources[gpu_class.name] is Source.ESTIMATED:
            made = estimated_tables(
                split,
                gpu_class.name,
                spec.batch_sizes,
                gpu_class.max_slices_per_gpu,
                known,
                executor.precision,
            )
            tables += made
            provenance[f"expected_error_{gpu_class.name}"] = f"{made[0].expected_error:g}"
    for device, found in measured.items():
        provenance |= provenance_of(spec.name, found, _measure_options(options), executor)
        if device == "cpu":
            provenance |= _too_slow(spec.name, classes, tables, found[1])
    spans = [split.span(BlockRange(block, block + 1)) for block in range(split.block_count)]
    return ModelProfile(
        model=spec.name,
        cut_bytes=split.cut_bytes,
        tables=tuple(tables),
        block_names=tuple(map(split.name_of, range(split.block_count))),
        cut_tensors=split.cut_tensors,
        inputs=split.inputs,
        outputs=split.outputs,
        weight_bytes=tuple(map(split.network.weight_bytes, spans)),
        activation_bytes=tuple(map(split.network.activation_bytes, spans)),
        overheads=options.overheads,
        split=split.digest,
        provenance=provenance,
        options=executor,
        imports=spec.program.imports,
        program_format=split.network.format,
    )


def _calibrating_tables(model: str, split: Split, known: Profile | None) -> tuple[LatencyTable, ...]:
    """Measured tables of another profile. Raises ProfileError where it is of another split."""
    if known is None or model not in [each.model for each in known.models]:
        return ()
    profile = known.model(model)
    if profile.split != split.digest:
        raise ProfileError(
            f"model {model}: the calibrating profile is of split {profile.split}, this one is of "
            f"{split.digest}: "
            "profile the same deployment with the same version"
        )
    return tuple(table for table in profile.tables if table.source is Source.MEASURED)


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
