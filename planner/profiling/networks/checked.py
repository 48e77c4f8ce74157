"""From a deployment's model to its exported program, with or without asking whether it may be served.

Profiling asks (checked_program); whoever exports what was profiled does not ask again (export_model), as the
split's digest tells whether the network is still the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.export import ExportedProgram
from torch.utils.flop_counter import FlopCounterMode

from planner.deployment import ModelSpec, input_specs
from planner.profiling.networks.behaviour import confirm, observe
from planner.profiling.networks.export import example_batch, export_network, finished, quiet
from planner.profiling.networks.libraries import require_imports
from planner.profiling.networks.loading import load_network, load_program, load_with_remarks
from planner.profiling.networks.regions import other_regions

MOST_GFLOP_TO_RUN = 15.0
"""Of one frame. The checks run about twenty frames, at some 50 GFLOP/s on two cores."""


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

    `without_weights`: a state_dict that is not here is done without, as estimates need none.
    """
    where, inputs = f"model {spec.name}", input_specs(spec)
    one_by_one = set(spec.batch_sizes) == {1}
    if without_weights and (unchecked := _too_large_to_run(spec)) is not None:
        return unchecked
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


def _too_large_to_run(spec: ModelSpec) -> Checked | None:
    """The program, without weights, of a network that takes minutes to run a dozen times on a CPU; None for
    any other, and for one that cannot be built without weights.
    """
    if spec.program.pt2 is not None:
        return None
    try:
        program = export_model(spec, "meta")
        frames = [example_batch(each, 1, "meta") for each in input_specs(spec)]
        with FlopCounterMode(display=False) as counter, torch.no_grad(), quiet():
            program.module(check_guards=False)(*frames)
    except Exception:  # it builds or counts otherwise; running it tells more
        return None
    gflop = counter.get_total_flops() / 1e9
    if gflop <= MOST_GFLOP_TO_RUN:
        return None
    remark = f"{gflop:.0f} GFLOP a frame: not run here, so whether it serves frame by frame was not checked"
    return Checked(program=program, remarks=(remark, *_remarks(program)))


def _remarks(program: ExportedProgram) -> tuple[str, ...]:
    idle = other_regions(program)
    if not idle:
        return ()
    said = f"regions: {', '.join(idle)} is taken as FP32"
    return (f"{said}; executor_options.precision: fp16 runs all of it in FP16",)
