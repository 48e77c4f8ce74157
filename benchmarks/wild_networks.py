# ruff: noqa: E501 (tables of inputs)
"""Networks as people write them: served frame by frame as they answer themselves, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.helpers.wild.case import Answer, Expected, WildCase
from benchmarks.helpers.wild.network import WildNetwork, ask_weights, plain_weights

TAKEN, REFUSED = Expected.TAKEN, Expected.REFUSED


def cases() -> Iterator[WildCase]:
    """Every network and file of weights."""
    for each in NETWORKS:
        yield each.case("networks")
    for kept in WEIGHTS:
        yield WildCase(f"networks-weights-{kept.id}", "weights", kept.expected, kept.ask, kept.names)


def _net(
    id_: str, kind: str, expected: Expected, end: str = WildNetwork.end, *names: str, **how: Any
) -> WildNetwork:
    return WildNetwork(id_, kind, expected, end, tuple(names), **how)


LINE = r"in (forward|end|more) \("
BATCH = "batch"
NETWORKS = (
    # The batch is a dimension of its own
    _net("flatten", BATCH, TAKEN, "return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))"),
    _net("view-of-size", BATCH, TAKEN, "return self.head(F.adaptive_max_pool2d(x, 1).view(x.size(0), -1))"),
    _net(
        "reshape-of-shape", BATCH, TAKEN, "b, c = x.shape[:2]\nreturn self.head(x.reshape(b, c, -1).mean(-1))"
    ),
    _net(
        "group-norm",
        BATCH,
        TAKEN,
        "return self.head(self.norm(x).mean((2, 3)))",
        made="self.norm = nn.GroupNorm(3, 12)",
    ),
    _net(
        "instance-norm",
        BATCH,
        TAKEN,
        "return self.head(self.norm(x).amax((2, 3)))",
        made="self.norm = nn.InstanceNorm2d(12)",
    ),
    _net("layer-norm", BATCH, TAKEN, "return self.head(F.layer_norm(x.mean((2, 3)), (12,)))"),
    _net("pixel-shuffle", BATCH, TAKEN, "return F.pixel_shuffle(x, 2)"),
    _net(
        "unfold",
        BATCH,
        TAKEN,
        "return self.head(F.unfold(x, 2, stride=2).reshape(x.shape[0], 12, -1).mean(2))",
    ),
    _net(
        "windows",
        BATCH,
        TAKEN,
        "b, c, h, w = x.shape\nx = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)\nx = self.head(x).softmax(1)\nreturn x.reshape(b, -1, 16, 7).mean((1, 2))",
    ),
    _net(
        "squeeze-of-sides",
        BATCH,
        TAKEN,
        "return self.head(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))",
    ),
    _net(
        "stacked-batches",
        BATCH,
        REFUSED,
        "both = torch.cat((x, x.flip(3)))\na, b = both.chunk(2)\nreturn self.head((a + b).mean((2, 3)))",
        "the batch, of any size",
        LINE,
    ),
    _net(
        "squeeze",
        BATCH,
        REFUSED,
        "return self.head(F.adaptive_avg_pool2d(x, 1).squeeze())",
        "squeeze",
        LINE,
        "flatten",
    ),
    _net(
        "squeeze-in-a-gate",
        BATCH,
        REFUSED,
        "gate = F.adaptive_avg_pool2d(x, 1).squeeze()\nreturn self.head((x * gate.view(-1, 12, 1, 1)).mean((2, 3)))[0]",
        LINE,
    ),
    _net(
        "numbers-squeezed",
        BATCH,
        REFUSED,
        "return self.head(x.mean((2, 3))).norm(dim=1, keepdim=True).squeeze()",
        "squeeze",
    ),
    _net("flat", BATCH, REFUSED, "return self.head(x.mean((2, 3))).view(-1)", LINE),
    _net(
        "branch-on-one",
        BATCH,
        REFUSED,
        "x = x.mean((2, 3))\nif len(x) == 1:\n    return self.head(x).tanh()\nreturn self.head(x)",
        "branch",
    ),
    _net(
        "branch-on-many",
        BATCH,
        REFUSED,
        "x = x.mean((2, 3))\nreturn self.head(x) if x.shape[0] <= 2 else self.head(x * 2)",
        "branch",
    ),
    _net(
        "list-of-frames",
        BATCH,
        REFUSED,
        "return torch.stack([self.head(one.mean((1, 2))) for one in x])",
        LINE,
    ),
    _net(
        "baked-size",
        BATCH,
        REFUSED,
        "b = int(x.shape[0])\nreturn self.head(x.reshape(b, 12, -1).mean(2)) + torch.arange(b).float()[:, None]",
    ),
    _net(
        "fixed-buffer",
        BATCH,
        REFUSED,
        "return self.head(x.mean((2, 3))) + self.memory",
        made="self.register_buffer('memory', torch.rand(2, 7))",
    ),
    # Alone and beside others
    _net(
        "batch-statistics",
        "others",
        REFUSED,
        "return self.head(self.norm(x).mean((2, 3)))",
        made="self.norm = nn.BatchNorm2d(12, track_running_stats=False)",
    ),
    _net(
        "training-norm",
        "others",
        REFUSED,
        "return self.head(F.batch_norm(x, None, None, training=True).mean((2, 3)))",
        "training|track_running_stats|batch",
    ),
    _net("whole-norm", "others", REFUSED, "return self.head((x / x.norm()).mean((2, 3)))", LINE),
    _net(
        "whole-spread",
        "others",
        REFUSED,
        "x = x.mean((2, 3))\nreturn self.head((x - x.mean()) / (x.std() + 1e-5))",
        LINE,
    ),
    _net("softmax-of-frames", "others", REFUSED, "return F.softmax(self.head(x.mean((2, 3))), dim=0)", LINE),
    _net("sorted-frames", "others", REFUSED, "return self.head(x.mean((2, 3))).sort(0).values", LINE),
    _net("running-sum", "others", REFUSED, "return self.head(x.mean((2, 3))).cumsum(0)", LINE),
    _net("frames-turned", "others", REFUSED, "return self.head(x.mean((2, 3))).flip(0)", LINE),
    _net("frames-rolled", "others", REFUSED, "return self.head(x.mean((2, 3))).roll(1, 0)", LINE),
    _net(
        "likeness-to-others",
        "others",
        REFUSED,
        "x = F.normalize(self.head(x.mean((2, 3))))\nreturn x @ x.t()",
    ),
    _net("less-the-first", "others", REFUSED, "x = x.mean((2, 3))\nreturn self.head(x - x[0])", LINE),
    _net(
        "attends-to-frames",
        "others",
        REFUSED,
        "x = x.flatten(2).transpose(1, 2)\nreturn self.attend(x, x, x)[0].mean(1)",
        LINE,
        made="self.attend = nn.MultiheadAttention(12, 3)",
    ),
    _net(
        "mixes-but-one-by-one",
        "others",
        TAKEN,
        "x = x.mean((2, 3))\nreturn self.head(x - x.mean(0))",
        model={"batch_sizes": [1]},
    ),
    # Twice the same
    _net("dropout", "chance", REFUSED, "return self.head(F.dropout(x, 0.5).mean((2, 3)))", "dropout"),
    _net(
        "dropout-2d",
        "chance",
        REFUSED,
        "return self.head(F.dropout2d(x, 0.2, training=True).mean((2, 3)))",
        "dropout",
    ),
    _net("noise", "chance", REFUSED, "return self.head((x + torch.rand_like(x)).mean((2, 3)))", "rand"),
    _net("gumbel", "chance", REFUSED, "return F.gumbel_softmax(self.head(x.mean((2, 3))))"),
    _net(
        "dropout-of-eval",
        "chance",
        TAKEN,
        "return self.head(self.drop(x).mean((2, 3)))",
        made="self.drop = nn.Dropout(0.9)",
    ),
    # Values read while it is built
    _net(
        "drop-path",
        "building",
        TAKEN,
        "return self.head(x.mean((2, 3)) * self.keep)",
        made="rates = [r.item() for r in torch.linspace(0, 0.3, 6)]\nself.keep = 1 - rates[-1]",
        estimate=True,
    ),
    _net(
        "numpy-table",
        "building",
        TAKEN,
        "return self.head(x.mean((2, 3)) + self.table)",
        made="self.register_buffer('table', torch.tensor(np.linspace(0, 1, 12), dtype=torch.float32))",
        estimate=True,
    ),
    _net(
        "list-of-table",
        "building",
        TAKEN,
        "return self.head(x.mean((2, 3))) * self.gains[2]",
        made="self.gains = torch.arange(1.0, 5.0).sqrt().tolist()",
        estimate=True,
    ),
    _net(
        "weights-looked-at",
        "building",
        TAKEN,
        "return self.head(x.mean((2, 3)))",
        made="nn.init.kaiming_normal_(self.head.weight)\nassert float(self.head.weight.abs().max()) > 0",
        estimate=True,
    ),
    _net(
        "size-from-a-test-run",
        "building",
        TAKEN,
        "return self.tail(x.flatten(1))",
        made="with torch.no_grad():\n    size = self.stem(torch.zeros(1, 3, 16, 16)).flatten(1).shape[1]\nself.tail = nn.Linear(size, 7)",
        estimate=True,
    ),
    _net(
        "own-device",
        "building",
        TAKEN,
        "with torch.autocast(x.device.type, enabled=False):\n    return self.head(x.float().mean((2, 3)))",
        estimate=True,
    ),
    # Regions and operators have costs
    _net(
        "autocast",
        "costs",
        TAKEN,
        "with torch.autocast('cpu', dtype=torch.bfloat16):\n    x = self.deep(x)\nreturn self.head(x.float().mean((2, 3)))",
        made="self.deep = nn.Sequential(*[nn.Conv2d(12, 12, 3, 1, 1) for _ in range(4)])",
        model={"executor_options": {"precision": "fp32"}},
    ),
    _net(
        "no-grad",
        "costs",
        TAKEN,
        "with torch.no_grad():\n    x = self.deep(x)\nreturn self.head(x.mean((2, 3)))",
        made="self.deep = nn.Sequential(*[nn.Conv2d(12, 12, 3, 1, 1) for _ in range(4)])",
    ),
    _net(
        "gradients-off",
        "costs",
        TAKEN,
        "with torch.set_grad_enabled(False):\n    x = self.deep(x)\nreturn self.head(x.mean((2, 3)))",
        made="self.deep = nn.Conv2d(12, 12, 5, 1, 2)",
    ),
    _net(
        "einsum",
        "costs",
        TAKEN,
        "q = x.flatten(2)\nreturn self.head(torch.einsum('bcn,bdn->bcd', q, q).softmax(-1).mean(2))",
    ),
    _net(
        "sdpa",
        "costs",
        TAKEN,
        "q = x.flatten(2).transpose(1, 2).unflatten(2, (3, 4)).transpose(1, 2)\nreturn self.head(F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2).mean(1))",
    ),
    _net(
        "multi-head",
        "costs",
        TAKEN,
        "q = x.flatten(2).transpose(1, 2)\nreturn self.head(self.attend(q, q, q, need_weights=False)[0].mean(1))",
        made="self.attend = nn.MultiheadAttention(12, 2, batch_first=True)",
    ),
    _net(
        "lstm",
        "costs",
        TAKEN,
        "return self.head(self.reads(x.mean(2).transpose(1, 2))[0][:, -1])",
        made="self.reads = nn.LSTM(12, 12, num_layers=2, batch_first=True)",
    ),
    _net(
        "gru-backwards",
        "costs",
        TAKEN,
        "return self.tail(self.reads(x.mean(2).transpose(1, 2))[0].mean(1))",
        made="self.reads = nn.GRU(12, 12, bidirectional=True, batch_first=True)\nself.tail = nn.Linear(24, 7)",
    ),
    _net(
        "transposed",
        "costs",
        TAKEN,
        "return self.up(x)",
        made="self.up = nn.ConvTranspose2d(12, 4, 2, 2)",
    ),
    _net(
        "depthwise",
        "costs",
        TAKEN,
        "return self.head(self.deep(x).mean((2, 3)))",
        made="self.deep = nn.Conv2d(12, 12, 7, 1, 3, groups=12)",
    ),
    _net(
        "one-dimension",
        "costs",
        TAKEN,
        "return self.head(self.deep(x.flatten(2)).mean(2))",
        made="self.deep = nn.Conv1d(12, 12, 9, padding=4)",
    ),
    _net(
        "bilinear",
        "costs",
        TAKEN,
        "return self.both(x.mean((2, 3)), x.amax((2, 3)))",
        made="self.both = nn.Bilinear(12, 12, 7)",
    ),
    _net(
        "weight-norm",
        "costs",
        TAKEN,
        "return self.head(self.deep(x).mean((2, 3)))",
        made="self.deep = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(12, 12, 3, 1, 1))",
    ),
    _net(
        "orthogonal",
        "costs",
        TAKEN,
        "return self.head(self.turn(x.mean((2, 3))))",
        made="self.turn = torch.nn.utils.parametrizations.orthogonal(nn.Linear(12, 12))",
    ),
    _net(
        "tied",
        "costs",
        TAKEN,
        "x = x.mean((2, 3))\nreturn (x @ self.head.weight.t() + self.head.bias) @ self.head.weight",
    ),
    _net(
        "foreign-unnamed",
        "foreign",
        REFUSED,
        "return self.head(torch.ops.wildunnamed.twice(x.mean((2, 3))))",
        "imports",
        "wildunnamed",
        before="@torch.library.custom_op('wildunnamed::twice', mutates_args=())\ndef twice(x: torch.Tensor) -> torch.Tensor:\n    return x * 2\n\n@twice.register_fake\ndef _(x):\n    return torch.empty_like(x)",
    ),
    # Outputs
    _net("dict", "outputs", TAKEN, "x = x.mean((2, 3))\nreturn {'logits': self.head(x), 'features': x}"),
    _net("nested", "outputs", TAKEN, "x = x.mean((2, 3))\nreturn [self.head(x), (x, {'deep': x * 2})]"),
    _net(
        "named-tuple",
        "outputs",
        TAKEN,
        factory="Made",
        after="class Two(NamedTuple):\n    scores: torch.Tensor\n    maps: torch.Tensor\n\nclass Made(Net):\n    def end(self, x):\n        return Two(self.head(x.mean((2, 3))), x)\n",
    ),
    _net(
        "registered",
        "outputs",
        TAKEN,
        factory="Made",
        after="@dataclass\nclass Seen:\n    scores: torch.Tensor\n    more: Optional[torch.Tensor] = None\n\ntorch.export.register_dataclass(Seen, serialized_type_name='wild.Seen')\n\nclass Made(Net):\n    def end(self, x):\n        return Seen(self.head(x.mean((2, 3))))\n",
    ),
    _net("scalar-per-frame", "outputs", TAKEN, "return self.head(x.mean((2, 3))).amax(1)"),
    _net("best-class", "outputs", TAKEN, "return self.head(x.mean((2, 3))).argmax(1)"),
    _net(
        "top-three",
        "outputs",
        TAKEN,
        "found = self.head(x.mean((2, 3))).topk(3)\nreturn found.values, found.indices",
    ),
    _net("flags", "outputs", TAKEN, "return self.head(x.mean((2, 3))) > 0"),
    _net("twice", "outputs", TAKEN, "y = self.head(x.mean((2, 3)))\nreturn {'main': y, 'aux': y}"),
    _net("view-of-another", "outputs", TAKEN, "y = self.head(x.mean((2, 3)))\nreturn y, y[:, :3]"),
    _net("brain-float", "outputs", TAKEN, "return self.head(x.mean((2, 3))).bfloat16()"),
    _net("none-left-out", "outputs", TAKEN, "return self.head(x.mean((2, 3))), None"),
    _net(
        "scalar-across",
        "outputs",
        TAKEN,
        "gain = x.amax((1, 2, 3))\nfor layer in self.deep:\n    x = layer(x)\nreturn self.head(x.mean((2, 3))) * gain[:, None]",
        made="self.deep = nn.ModuleList(nn.Conv2d(12, 12, 3, 1, 1) for _ in range(3))",
    ),
    _net(
        "unregistered",
        "outputs",
        REFUSED,
        "",
        "register_dataclass|torch does not know",
        factory="Made",
        after="@dataclass\nclass Seen:\n    scores: torch.Tensor\n\nclass Made(Net):\n    def end(self, x):\n        return Seen(self.head(x.mean((2, 3))))\n",
    ),
    _net(
        "constant",
        "outputs",
        REFUSED,
        "return self.head(x.mean((2, 3))), self.grid",
        "same for every frame",
        made="self.register_buffer('grid', torch.rand(9, 2))",
    ),
    _net(
        "made-grid",
        "outputs",
        REFUSED,
        "return self.head(x.mean((2, 3))), torch.linspace(0, 1, 8)",
        "same for every frame",
    ),
    _net(
        "two-keys-one-name",
        "outputs",
        REFUSED,
        "y = self.head(x.mean((2, 3)))\nreturn {'top 1': y, 'top/1': y * 2}",
        "top",
    ),
    _net("a-number", "outputs", REFUSED, "return self.head(x.mean((2, 3))), 3"),
    _net("a-text", "outputs", REFUSED, "return {'y': self.head(x.mean((2, 3))), 'by': 'made'}"),
    _net("complex", "outputs", REFUSED, "return torch.fft.fft(x.mean((2, 3)))", "complex"),
    _net("sum-of-all", "outputs", REFUSED, "return self.head(x.mean((2, 3))).sum()"),
    _net("found-boxes", "outputs", REFUSED, "y = self.head(x.mean((2, 3)))\nreturn y[y.amax(1) > 0]"),
    _net("how-many", "outputs", REFUSED, "return self.head(x.mean((2, 3))).nonzero()"),
    _net("nothing", "outputs", REFUSED, "return None"),
    # What is no network
    _net(
        "script",
        "factories",
        REFUSED,
        "",
        "TorchScript|script",
        factory="Made",
        after="def Made():\n    return torch.jit.script(nn.Conv2d(3, 4, 3))\n",
    ),
    _net(
        "parallel",
        "factories",
        REFUSED,
        "",
        "DataParallel",
        factory="Made",
        after="def Made():\n    return nn.DataParallel(Net())\n",
    ),
    _net(
        "compiled",
        "factories",
        REFUSED,
        "",
        "compile",
        factory="Made",
        after="def Made():\n    return torch.compile(Net())\n",
    ),
    _net(
        "a-function", "factories", REFUSED, "", factory="Made", after="def Made():\n    return lambda x: x\n"
    ),
    _net(
        "raises",
        "factories",
        REFUSED,
        "",
        "no such backbone",
        factory="Made",
        after="def Made():\n    raise ValueError('no such backbone')\n",
    ),
)


@dataclass(frozen=True)
class Weights:
    """A network's own weights as a file of them is found. `keep`: what is saved."""

    id: str
    expected: Expected
    keep: Callable[[dict[str, torch.Tensor]], Any]
    names: tuple[str, ...] = field(default=())

    def ask(self, folder: Path) -> Answer:
        """Profile with the file; what is taken must be the network of these weights."""
        return ask_weights(folder, self.keep(plain_weights()))


def _under(prefix: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda weights: {f"{prefix}{name}": value for name, value in weights.items()}


WEIGHTS = (
    Weights("plain", TAKEN, dict),
    Weights("module", TAKEN, _under("module.")),
    Weights("model", TAKEN, _under("model.")),
    Weights("compiled", TAKEN, _under("_orig_mod.")),
    Weights("both", TAKEN, _under("_orig_mod.module.")),
    Weights(
        "checkpoint", TAKEN, lambda weights: {"epoch": 3, "state_dict": weights, "optimizer": {"lr": 0.1}}
    ),
    Weights("lightning", TAKEN, lambda weights: {"state_dict": _under("net.")(weights)}),
    Weights(
        "nested",
        TAKEN,
        lambda weights: {"model": {f"module.{name}": value for name, value in weights.items()}},
    ),
    Weights(
        "counters-left-out",
        TAKEN,
        lambda weights: {n: v for n, v in weights.items() if "num_batches" not in n},
    ),
    Weights(
        "two-that-differ",
        REFUSED,
        lambda weights: {"model": weights, "model_ema": {n: v + 1 for n, v in weights.items()}},
        ("model_ema",),
    ),
    Weights(
        "one-missing",
        REFUSED,
        lambda weights: {n: v for n, v in weights.items() if n != "head.bias"},
        ("head.bias",),
    ),
    Weights(
        "another-shape",
        REFUSED,
        lambda weights: weights | {"head.weight": torch.zeros(9, 12)},
        ("head.weight",),
    ),
    Weights("another-network", REFUSED, lambda weights: {"a.weight": torch.zeros(3)}),
    Weights("a-list", REFUSED, lambda weights: list(weights.values())),
    Weights("empty", REFUSED, lambda weights: {}),
)
