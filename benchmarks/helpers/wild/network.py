"""One network of the benchmark `wild`: written as its owner would, profiled, planned, generated and run.

What is taken is right if every stage program that would be served answers 1, 2 and 3 frames as the unsplit
network answers each alone, if the network cut near its ends does so too, and if the profile counts at least
what torch's own counter finds in the network.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.helpers.wild.case import Answer, Expected, WildCase, called
from planner.deployment import ModelSpec, load_deployment
from planner.manifest import ModelEntry
from planner.plan import BlockRange
from planner.profiling.networks.loading import load_network
from planner.profiling.split import Split, split_model
from planner.profiling.stages import export_stage
from ppipe.bench.frames import make_inputs_of
from ppipe.bench.reference import TOLERANCE, Reference, error_of, make_reference
from ppipe.bench.unsplit import unsplit
from ppipe.cli import run
from ppipe.serving.launcher import load_manifest
from ppipe.workspace import Workspace
from python_backend.stage.executors.torch_program import TorchExecutor

FRAME = (3, 16, 16)
BATCHES = (1, 2, 3)
LEAST_COUNTED = 0.95
"""Of the FLOPs that torch counts in the network as it is written."""
GFLOP_PER_S = 0.05
SOURCE = """
import collections, dataclasses, functools, math, typing
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
{before}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.SiLU())
        self.next = nn.Conv2d(12, 12, 3, 1, 1)
        self.head = nn.Linear(12, 7)
{made}

    def maps(self, x):
        return self.next(self.stem(x)).relu()

    def forward(self, x):
{forward}

    def end(self, x):
{end}
{after}
"""
STATED = {"gflop_per_s": GFLOP_PER_S, "gbyte_per_s": 1e6, "overhead_us": 0.0}
CPU = [
    {"name": "fast", "executor": "cpu", "stated": STATED},
    {"name": "slow", "executor": "cpu", "stated": {"gflop_per_s": 0.02, "gbyte_per_s": 0.15}},
]
GPUS = [{"name": "L4", "memory_gib": 22.5}, {"name": "T4", "memory_gib": 15}]


def nothing(folder: Path) -> None:
    """No further files."""


@dataclass(frozen=True)
class WildNetwork:
    """`end`: the body of Net.end(self, x), x being maps of 12 channels; `forward`: of Net.forward.

    `made`: lines of __init__; `before`, `after`: lines around the class; `factory`: what of the module is the
    network. `program`: changes of the deployment's program; `model`: of the model. `files`: writes what lies
    beside it, the network's module being importable. `estimate`: for GPUs that are not here.
    """

    id: str
    kind: str
    expected: Expected
    end: str = "return self.head(x.mean((2, 3)))"
    names: tuple[str, ...] = ()
    made: str = ""
    forward: str = "return self.end(self.maps(x))"
    before: str = ""
    after: str = ""
    factory: str = "Net"
    program: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    files: Callable[[Path], None] = nothing
    estimate: bool = False

    @property
    def module(self) -> str:
        """The name of its Python module, unlike any other's."""
        return f"wild_{self.id}".replace("-", "_")

    def case(self, section: str) -> WildCase:
        """As the benchmark asks it."""
        return WildCase(f"{section}-{self.id}", self.kind, self.expected, self.ask, self.names)

    def ask(self, folder: Path) -> Answer:
        """Profile, plan and generate it as a user does, and run what would be served."""
        with self.at(folder) as path:
            said = ""
            for command in (
                ("profile", *(("--estimate", "all") if self.estimate else ())),
                ("plan", "--margin", "0.4"),
                ("generate",),
            ):
                answer = called(run, command[0], str(path), "--work", str(folder), *command[1:])
                said += answer.said
                if not answer.taken:
                    return Answer(taken=False, said=answer.said, fault=_not_one_line(answer.said))
            return Answer(taken=True, said=said, fault=self._fault(path, folder))

    @contextmanager
    def at(self, folder: Path) -> Iterator[Path]:
        """Write it, importable meanwhile; gives its deployment.yaml."""
        (folder / f"{self.module}.py").write_text(self.source(), encoding="utf-8")
        path = folder / "deployment.yaml"
        path.write_text(yaml.safe_dump(self.deployment(), allow_unicode=True), encoding="utf-8")
        sys.path.insert(0, str(folder))
        threads = torch.get_num_threads()
        try:
            self.files(folder)
            yield path
        finally:
            torch.set_num_threads(threads)
            sys.path.remove(str(folder))
            sys.modules.pop(self.module, None)

    def source(self) -> str:
        """The text of its module."""
        return SOURCE.format(
            before=textwrap.dedent(self.before),
            made=_indented(self.made),
            forward=_indented(self.forward),
            end=_indented(self.end),
            after=textwrap.dedent(self.after),
        )

    def deployment(self) -> dict[str, Any]:
        """Of one model on a GPU of either class."""
        classes = GPUS if self.estimate else CPU
        groups = [{"gpu": each["name"], "count": 1, "gpus_per_server": 1} for each in classes]
        model = {
            "name": "net",
            "program": {"factory": f"{self.module}:{self.factory}", **self.program},
            "input": {"name": "image", "dtype": "FP32", "shape": list(FRAME)},
            "slo_ms": 800,
            "batch_sizes": [1, 2, 4],
            "blocks": 4,
            **self.model,
        }
        model["program"] = {key: value for key, value in model["program"].items() if value is not None}
        cluster = {"gpu_classes": classes, "groups": groups}
        return {"name": "wild", "cluster": cluster, "models": [model], "planner": {"max_stages": 2}}

    def _fault(self, path: Path, folder: Path) -> str:
        spec, workspace = load_deployment(path).model("net"), Workspace(folder)
        if fault := _miscounted(spec, workspace):
            return fault
        if self.estimate:
            return ""  # its stages are for GPUs, and computed by the same code as the others'
        entry = load_manifest(workspace.repository).model("net")
        frames = make_inputs_of(entry.network_inputs, max(BATCHES), seed=3)
        reference = make_reference(spec, entry, workspace.repository, frames, None)
        batches = BATCHES if max(spec.batch_sizes) >= max(BATCHES) else (1,)
        served = _served(entry, workspace.repository)
        for stages in (*served, *_cut(split_model(spec))):
            for batch in batches:
                if why := _answers_otherwise(stages, frames[:batch], entry, reference):
                    return f"{len(stages)} stages, batch {batch}: {why}"
        return ""


Stages = Sequence[Callable[[list[Any]], Sequence[Any]]]
"""One after another: arrays to arrays."""


def _indented(body: str) -> str:
    return textwrap.indent(textwrap.dedent(body) or "pass", " " * 8)


def _not_one_line(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("profile: ")]
    return "" if len(lines) == 1 else f"is refused in {len(lines)} lines: {lines[:3]}"


def _served(entry: ModelEntry, repository: Path) -> Iterator[Stages]:
    """Each pipeline of the plan, in the executor that would serve it."""
    for programs in entry.programs:
        yield [TorchExecutor(each, repository / each.program, "cpu").run for each in programs]


def _cut(split: Split) -> Iterator[Stages]:
    """Whole, and cut near each end, whatever the plan has."""
    count = split.block_count
    for cut in sorted({0, 1, count - 1} - {count}):
        ranges = [BlockRange(0, cut), BlockRange(cut, count)] if cut else [BlockRange(0, count)]
        yield [_run_of(export_stage(split, blocks).module()) for blocks in ranges]


def _run_of(module: torch.nn.Module) -> Callable[[list[Any]], Sequence[Any]]:
    def run_arrays(arrays: list[Any]) -> Sequence[Any]:
        with torch.no_grad():
            return [tensor.numpy() for tensor in module(*map(torch.from_numpy, arrays))]

    return run_arrays


def _answers_otherwise(
    stages: Stages, frames: Sequence[Sequence[Any]], entry: ModelEntry, reference: Reference
) -> str:
    """What these stages would do wrong with a batch, '' if nothing."""
    values: Sequence[Any] = [np.stack(parts) for parts in zip(*frames, strict=True)]
    for stage in stages:
        values = stage(list(values))
    for output, value in zip(entry.programs[0][-1].outputs, values, strict=True):
        for frame in range(len(frames)):
            off = error_of(value[frame], reference.answers[frame][output.name])
            if off > max(TOLERANCE, reference.tolerance):
                return f"{output.name} of frame {frame} is off by {off:.1e}"
    return ""


def _miscounted(spec: ModelSpec, workspace: Workspace) -> str:
    """Whether blocks cost clearly less than torch counts in the network: from a table of a stated speed."""
    table = next((each for each in workspace.load_profile().models[0].tables if each.gpu == "fast"), None)
    if table is None:
        return ""
    counted = sum(row[0] for row in table.latency_us) * GFLOP_PER_S * 1e3
    network = unsplit(spec, workspace.load_profile().models[0].outputs)
    frame = make_inputs_of(workspace.load_profile().models[0].inputs, 1, seed=1)[0]
    with FlopCounterMode(display=False) as counter:
        network.answer(frame)
    wanted = counter.get_total_flops()
    return "" if counted >= LEAST_COUNTED * wanted else f"{counted:.0f} FLOP counted of {wanted}"


def ask_weights(folder: Path, kept: Any) -> Answer:
    """Profile the plain network with a file of weights, `kept`."""
    plain = WildNetwork(
        "weights", "weights", Expected.TAKEN, program={"state_dict": str(folder / "weights.pth")}
    )
    torch.save(kept, folder / "weights.pth")
    with plain.at(folder) as path:
        profiled = called(run, "profile", str(path), "--work", str(folder))
        fault = _other_weights(load_deployment(path).models[0]) if profiled.taken else ""
    return Answer(profiled.taken, profiled.said, fault)


def plain_weights() -> dict[str, torch.Tensor]:
    """Weights of the plain network, unlike any that it is made with."""
    scope: dict[str, Any] = {"__name__": "wild_plain"}
    exec(WildNetwork("plain", "weights", Expected.TAKEN).source(), scope)
    torch.manual_seed(11)
    made: torch.nn.Module = scope["Net"]()
    return {
        name: value + 0.25 if value.is_floating_point() else value
        for name, value in made.state_dict().items()
    }


def _other_weights(spec: ModelSpec) -> str:
    loaded = load_network(spec).state_dict()
    wrong = [name for name, value in plain_weights().items() if not torch.allclose(loaded[name], value)]
    return f"{wrong[0]} is not what the file has" if wrong else ""
