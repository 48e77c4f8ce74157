"""A network that somebody wrote: profiled as its user does, and run in the stage programs that are served.

These are run whole and cut in two, on batches of one, two and five frames: each frame's answer must be the
network's own, whatever is beside it.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.helpers.wild_case import Answer, Expected, called
from planner.deployment import ModelSpec, load_deployment
from planner.plan import BlockRange
from planner.profiling.networks.loading import load_network
from planner.profiling.split import Split, split_model
from planner.profiling.stages import export_stage
from ppipe.cli import run

FRAME = (3, 16, 16)
BATCHES = (1, 2, 5)
CLOSE = 1e-4
"""Of the largest value: sums in another order."""
COUNTED_WITHIN = 0.05
HEAD = """
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        first = (nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.SiLU())
        self.stem = nn.Sequential(*first, nn.Conv2d(12, 12, 3, 1, 1), nn.Hardswish())
        self.head = nn.Linear(12, 7)
        self.more()

    def more(self):
        pass

    def forward(self, x):
        return self.end(self.stem(x))

    def end(self, x):
        return self.head(x.mean((2, 3)))
"""


@dataclass(frozen=True)
class WildNetwork:
    """`end`: the body of Net.end(self, x); `more`: of Net.more(self); `whole`: the file in place of both.

    `spec`: more of the model in deployment.yaml. `counted`: whether its FLOPs are those that torch counts.
    """

    id: str
    kind: str
    expected: Expected
    end: str = "return self.head(x.mean((2, 3)))"
    names: tuple[str, ...] = ()
    more: str = "pass"
    whole: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    counted: bool = False
    estimate: bool = False

    def ask(self, folder: Path) -> Answer:
        """Profile it, and run what would be served."""
        path = self._write(folder)
        sys.path.insert(0, str(folder))
        try:
            options = ("--estimate", "all") if self.estimate else ()
            profiled = called(_status, "profile", str(path), "--work", str(folder / "work"), *options)
            fault = self._fault(load_deployment(path).models[0]) if profiled.taken else ""
        finally:
            sys.path.remove(str(folder))
            sys.modules.pop(self._module, None)
        return Answer(profiled.taken, profiled.said, fault)

    @property
    def _module(self) -> str:
        return f"wild_{self.id.replace('-', '_')}"

    def _fault(self, spec: ModelSpec) -> str:
        split = split_model(spec)
        network = load_network(spec)
        batches = (1,) if set(spec.batch_sizes) == {1} else BATCHES
        why = _answers_otherwise(split, network, batches)
        return why or (_counts_otherwise(split, network) if self.counted else "")

    def _write(self, folder: Path) -> Path:
        body = self.whole or "\nclass Made(Net):\n" + "\n".join(
            textwrap.indent(f"def {name}:\n{textwrap.indent(textwrap.dedent(code).strip(), '    ')}", "    ")
            for name, code in (("more(self)", self.more), ("end(self, x)", self.end))
        )
        (folder / f"{self._module}.py").write_text(HEAD + "\n" + textwrap.dedent(body))
        return write_deployment(folder, {"factory": f"{self._module}:Made"}, self.spec)


def write_deployment(folder: Path, program: Mapping[str, Any], spec: Mapping[str, Any]) -> Path:
    """deployment.yaml with one model on two small CPU classes."""
    speed = {"gflop_per_s": 0.5, "gbyte_per_s": 0.5, "overhead_us": 200}
    model = {
        "name": "net",
        "input": {"name": "image", "dtype": "FP32", "shape": list(FRAME)},
        "slo_ms": 900,
        "blocks": 4,
        **spec,
    }
    model["program"] = {**program, **spec.get("program", {})}
    path = folder / "deployment.yaml"
    classes = [{"name": name, "executor": "cpu", "stated": speed} for name in ("fast", "slow")]
    groups = [{"gpu": name, "count": 1, "gpus_per_server": 1} for name in ("fast", "slow")]
    cluster = {"gpu_classes": classes, "groups": groups}
    path.write_text(yaml.safe_dump({"name": "wild", "cluster": cluster, "models": [model]}))
    return path


def _status(arguments: list[str]) -> int:
    return run(arguments)


def _answers_otherwise(split: Split, network: torch.nn.Module, batches: Sequence[int]) -> str:
    """Where the stage programs, whole and cut in two, answer a frame otherwise than the network alone."""
    frames = torch.rand(max(BATCHES), *FRAME, generator=torch.Generator().manual_seed(7)) * 2 - 1
    with torch.no_grad():
        right = [_leaves(network(frames[index : index + 1])) for index in range(len(frames))]
        count = split.block_count
        ways = [[BlockRange(0, count)]] + [
            [BlockRange(0, cut), BlockRange(cut, count)] for cut in {1, count - 1} if 0 < cut < count
        ]
        for way in ways:
            stages = [export_stage(split, blocks).module() for blocks in way]
            for batch in batches:
                values: tuple[torch.Tensor, ...] = (frames[:batch],)
                for stage in stages:
                    values = stage(*values)
                if why := _differs(values, right[:batch]):
                    return f"{len(way)} stages, batch {batch}: {why}"
    return ""


def _differs(found: tuple[torch.Tensor, ...], right: list[list[torch.Tensor]]) -> str:
    for frame, wanted in enumerate(right):
        if len(wanted) != len(found):
            return f"{len(found)} outputs where the network has {len(wanted)}"
        for mine, own in zip(found, wanted, strict=True):
            if mine[frame].numel() != own.numel():
                return f"frame {frame} has {list(mine[frame].shape)} where the network has {list(own.shape)}"
            far = (mine[frame].flatten().double() - own.flatten().double()).abs().max()
            if float(far) > CLOSE * max(1.0, float(own.double().abs().max())):
                return f"frame {frame} is off by {float(far):.3g}"
    return ""


def _leaves(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if leaf is not None]


def _counts_otherwise(split: Split, network: torch.nn.Module) -> str:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.rand(1, *FRAME))
    ours = sum(split.cost(block).flops for block in range(split.block_count))
    wanted = counter.get_total_flops()
    if wanted and ours < wanted * (1 - COUNTED_WITHIN):
        return f"{ours:.3g} operations are counted where there are {wanted:.3g}"
    return ""


PLAIN = "\nclass Made(Net):\n    pass\n"


def sizes_of_head() -> dict[str, torch.Tensor]:
    """Weights of the plain network, unlike any that it is made with."""
    scope: dict[str, Any] = {"__name__": "wild_plain"}
    exec(HEAD + PLAIN, scope)
    torch.manual_seed(11)
    made: torch.nn.Module = scope["Made"]()
    return {
        name: value + 0.25 if value.is_floating_point() else value
        for name, value in made.state_dict().items()
    }


def ask_program(folder: Path, kept: Any) -> Answer:
    """Profile the plain network with a file of weights, `kept`."""
    (folder / "wild_weights.py").write_text(HEAD + PLAIN)
    torch.save(kept, folder / "weights.pth")
    path = write_deployment(
        folder, {"factory": "wild_weights:Made", "state_dict": str(folder / "weights.pth")}, {}
    )
    sys.path.insert(0, str(folder))
    try:
        profiled = called(_status, "profile", str(path), "--work", str(folder / "work"))
        fault = _other_weights(load_deployment(path).models[0]) if profiled.taken else ""
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("wild_weights", None)
    return Answer(profiled.taken, profiled.said, fault)


def _other_weights(spec: ModelSpec) -> str:
    loaded = load_network(spec).state_dict()
    wrong = [name for name, value in sizes_of_head().items() if not torch.allclose(loaded[name], value)]
    return f"{wrong[0]} is not what the file has" if wrong else ""
