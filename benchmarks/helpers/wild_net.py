"""One network of the benchmark `wild`: written as its owner would, profiled, planned, generated and run.

What is taken is right if every stage program that would be served answers 1, 2 and 3 frames as the unsplit
network answers each alone, and if the profile counts at least what torch's own counter finds in the network.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.helpers.wild_case import Answer, Expected, WildCase, called
from planner.deployment import ModelSpec, load_deployment
from planner.manifest import ModelEntry
from ppipe.bench.frames import make_inputs_of
from ppipe.bench.reference import TOLERANCE, error_of, make_reference
from ppipe.bench.unsplit import unsplit
from ppipe.cli import run
from ppipe.serving.launcher import load_manifest
from ppipe.workspace import Workspace
from python_backend.stage.executors.torch_program import TorchExecutor

BATCHES = (1, 2, 3)
LEAST_COUNTED = 0.9
"""Of the FLOPs that torch counts in the network as it is written."""
GFLOP_PER_S = 0.05
SOURCE = """
import collections, dataclasses, functools, math, typing
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
{before}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.next = nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Linear(8, 5)
{made}

    def maps(self, x):
        return self.next(self.stem(x)).relu()

    def forward(self, x):
{forward}
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
class Net:
    """`forward`: the body; `made`: lines of __init__; `before`, `after`: lines around the class.

    `program`: changes of the deployment's program; `model`: of the model. `files`: writes what lies
    beside it, the network's module being importable. `estimate`: for GPUs that are not here.
    """

    id: str
    kind: str
    expected: Expected
    forward: str
    names: tuple[str, ...] = ()
    made: str = ""
    before: str = ""
    after: str = ""
    program: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    files: Callable[[Path], None] = nothing
    estimate: bool = False
    counted: bool = True

    @property
    def module(self) -> str:
        """The name of its Python module, unlike any other's."""
        return f"wild_{self.id}".replace("-", "_")

    def case(self) -> WildCase:
        """As the benchmark asks it."""
        return WildCase(f"batches-{self.id}", self.kind, self.expected, self.ask, self.names)

    def ask(self, folder: Path) -> Answer:
        """Profile, plan and generate it as a user does, and run what would be served."""
        with self.at(folder) as path:
            said = ""
            for command in (
                ("profile", *(("--estimate", "all") if self.estimate else ())),
                ("plan",),
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
            made=textwrap.indent(textwrap.dedent(self.made), " " * 8),
            forward=textwrap.indent(textwrap.dedent(self.forward), " " * 8),
            after=textwrap.dedent(self.after),
        )

    def deployment(self) -> dict[str, Any]:
        """Of one model on a GPU of either class."""
        classes = GPUS if self.estimate else CPU
        groups = [{"gpu": each["name"], "count": 1, "gpus_per_server": 1} for each in classes]
        model = {
            "name": "net",
            "program": {"factory": f"{self.module}:Net", **self.program},
            "input": {"name": "image", "dtype": "FP32", "shape": [3, 16, 16]},
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
        if self.counted and (fault := _miscounted(spec, workspace)):
            return fault
        if self.estimate:
            return ""  # its stages are for GPUs, and computed by the same code as the others'
        manifest = load_manifest(workspace.repository)
        return _answers_otherwise(spec, manifest.model("net"), workspace.repository)


def _not_one_line(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("profile: ")]
    return "" if len(lines) == 1 else f"is refused in {len(lines)} lines: {lines[:3]}"


def _answers_otherwise(spec: ModelSpec, entry: ModelEntry, repository: Path) -> str:
    """What a served stage would do wrong, '' if nothing."""
    inputs = make_inputs_of(entry.network_inputs, max(BATCHES), seed=3)
    reference = make_reference(spec, entry, repository, inputs, None)
    batches = BATCHES if max(spec.batch_sizes) >= max(BATCHES) else (1,)
    for programs in entry.programs:
        stages = [TorchExecutor(each, repository / each.program, "cpu") for each in programs]
        for batch in batches:
            values = [np.stack([frame[index] for frame in inputs[:batch]]) for index in range(len(inputs[0]))]
            for stage in stages:
                values = stage.run(values)
            for output, value in zip(programs[-1].outputs, values, strict=True):
                for frame in range(batch):
                    off = error_of(value[frame], reference.answers[frame][output.name])
                    if off > max(TOLERANCE, reference.tolerance):
                        return f"{output.name} of frame {frame} of {batch} is off by {off:.1e}"
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
