"""From a deployment's model to its exported program, with or without asking whether it may be served.

Profiling asks (checked_program); whoever exports what was profiled does not ask again (export_model), as the
split's digest tells whether the network is still the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils.flop_counter import FlopCounterMode

from planner.deployment import ModelSpec, input_specs
from planner.profiling.measuring.timing import torch_threads
from planner.profiling.network import Specs
from planner.profiling.networks.behaviour import confirm, goes_one_way, observe, observe_shapes
from planner.profiling.networks.export import (
    EXAMPLE_BATCH,
    example_batch,
    export_network,
    finished,
    quiet,
)
from planner.profiling.networks.libraries import require_imports
from planner.profiling.networks.loading import load_network, load_program, load_with_remarks
from planner.profiling.networks.regions import other_regions
from planner.profiling.smaller import MOST_GFLOP_TO_RUN, shapes_text, smaller_frames


@dataclass(frozen=True)
class Checked:
    """A program that answers as its network does. `remarks`: what its owner should know of it."""

    program: ExportedProgram
    remarks: tuple[str, ...] = ()


def export_model(
    spec: ModelSpec, device: str = "cpu", network: torch.nn.Module | None = None
) -> ExportedProgram:
    """The functional program of a deployment's model, its batch dimension dynamic. Raises ModelError.

    The device 'meta' makes a program without weights, in little time and memory. `network`: the loaded
    factory's, where the caller has it.
    """
    where = f"model {spec.name}"
    if spec.program.pt2 is not None:
        program = load_program(spec.program.pt2, where, spec.program.imports, spec.program.sha256)
    else:
        network = network if network is not None else load_network(spec, device)
        program = export_network(network, input_specs(spec), where, device)
    return finished(program, input_specs(spec), where, device)


def checked_program(spec: ModelSpec, without_weights: bool = False) -> Checked:
    """The program, once network and program have shown that they serve frame by frame. Raises ModelError.

    `without_weights`: a state_dict that is not here is done without, as estimates need none. A network that
    is too large to be run here is asked with smaller frames then.
    """
    if without_weights and (large := _too_large_to_run(spec)) is not None:
        with torch_threads(1):  # small frames: on a busy host more threads wait for each other
            return _asked_smaller(spec, large)
    return _asked(spec, input_specs(spec), without_weights)


def _asked(spec: ModelSpec, inputs: Specs, without_weights: bool) -> Checked:
    """The program for these inputs, and what was found."""
    where = f"model {spec.name}"
    one_by_one = set(spec.batch_sizes) == {1}
    if spec.program.pt2 is not None:
        program = load_program(spec.program.pt2, where, spec.program.imports, spec.program.sha256)
        remarks = _remarks(program)
        functional = finished(program, inputs, where)
        require_imports(functional, spec.program.imports, where)
        with quiet():
            observe(functional.module(check_guards=False), inputs, where, one_by_one)
        return Checked(program=functional, remarks=remarks)
    loaded = load_with_remarks(spec, without_weights=without_weights)
    with quiet():
        observed = observe(loaded.module, inputs, where, one_by_one)
    program = export_network(loaded.module, inputs, where)
    remarks = (*loaded.remarks, *_remarks(program))
    functional = finished(program, inputs, where)
    require_imports(functional, spec.program.imports, where)
    with quiet():
        confirm(functional.module(check_guards=False), observed, where, loaded.module)
    return Checked(program=functional, remarks=remarks)


@dataclass(frozen=True)
class _Large:
    """A network without weights, its program at its own frames, and GFLOP of one of them."""

    network: torch.nn.Module
    program: ExportedProgram
    gflop: float


def _too_large_to_run(spec: ModelSpec) -> _Large | None:
    """A network that takes minutes to run a dozen times on a CPU; None for any other, and for one that cannot
    be built without weights.
    """
    if spec.program.pt2 is not None:
        return None
    try:
        network = load_network(spec, "meta")
        program = export_model(spec, "meta", network)
        gflop = _gflop(program.module(check_guards=False), input_specs(spec))
    except Exception:  # it builds or counts otherwise; running it tells more
        return None
    return _Large(network, program, gflop) if gflop > MOST_GFLOP_TO_RUN else None


def _asked_smaller(spec: ModelSpec, large: _Large) -> Checked:
    """The program at its own frames, once the network has shown with smaller ones that it serves frame by
    frame; one that takes no others has shown its shapes. Raises ModelError.
    """
    where, own = f"model {spec.name}", input_specs(spec)
    said = f"{large.gflop:.0f} GFLOP a frame: "
    inputs = _taken(large, own)
    if inputs is None:
        with quiet():
            observe_shapes(large.network, own, where)
        said += "not run here, and it takes no smaller ones, so only the shapes of its answers were checked"
        return Checked(program=large.program, remarks=(said, *_remarks(large.program)))
    if goes_one_way(large.network, own):
        loaded = load_with_remarks(spec, without_weights=True)
        with quiet():
            observe(loaded.module, inputs, where, set(spec.batch_sizes) == {1})
        remarks = (*loaded.remarks, *_remarks(large.program))
    else:
        remarks = _asked(spec, inputs, without_weights=True).remarks
    require_imports(large.program, spec.program.imports, where)
    said += f"that it serves frame by frame was seen with frames of {shapes_text(inputs)}"
    return Checked(program=large.program, remarks=(said, *remarks))


def _taken(large: _Large, inputs: Specs) -> Specs | None:
    """Smaller frames that the network runs on, or None."""
    for smaller, most in smaller_frames(inputs, large.gflop):
        with contextlib.suppress(Exception):  # other sizes are no fault
            if _gflop(large.network, smaller) <= most:
                return smaller
    return None


def _gflop(network: Callable[..., Any], inputs: Specs) -> float:
    """Of one frame, without weights. Raises whatever the network raises."""
    frames = [example_batch(each, EXAMPLE_BATCH, "meta") for each in inputs]
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"), quiet():
        network(*frames)
    return float(counter.get_total_flops()) / EXAMPLE_BATCH / 1e9


def _remarks(program: ExportedProgram) -> tuple[str, ...]:
    idle = other_regions(program)
    if not idle:
        return ()
    said = f"regions: {', '.join(idle)} is taken as FP32"
    return (f"{said}; executor_options.precision: fp16 runs all of it in FP16",)
