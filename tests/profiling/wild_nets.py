"""Networks as people write them: what is taken as it is, and what cannot be served and must be refused."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as everybody writes it)
from torch.nn.utils import parametrizations


def body(outputs: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, outputs, 3, 1, 1), nn.ReLU(inplace=True)
    )


class _Body(nn.Module):
    """A few convolutions, then `finish` of feature maps [batch, 8, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        return self.finish(self.body(x))

    def finish(self, x: Tensor) -> Any:
        return self.head(x.mean((2, 3)))


# What depends on how many frames there are


class Squeeze(_Body):
    def finish(self, x):
        return self.head(F.adaptive_avg_pool2d(x, 1).squeeze())


class SqueezeOfNumbers(_Body):
    def finish(self, x):
        return self.head(x.mean((2, 3)))[:, :1].squeeze()


class SqueezeThenStack(_Body):
    def finish(self, x):
        pooled = x.mean((2, 3), keepdim=True).squeeze()
        return torch.stack((pooled, pooled), 2).softmax(2).sum(2)


class ViewOfRows(_Body):
    def finish(self, x):
        return x.view(-1)


class Branch(_Body):
    def finish(self, x):
        if x.shape[0] == 1:
            return self.head(x.mean((2, 3))) * 2
        return self.head(x.mean((2, 3)))


class BranchOnMany(_Body):
    def finish(self, x):
        x = x.mean((2, 3))
        return self.head(x) if x.shape[0] < 3 else self.head(x).relu()


class LoopOverFrames(_Body):
    def finish(self, x):
        return torch.stack([self.head(x[index].mean((1, 2))) for index in range(x.shape[0])])


class NumberOfFrames(_Body):
    def finish(self, x):
        return x.reshape(int(x.shape[0]), -1)


class DividedByFrames(_Body):
    def finish(self, x):
        return self.head(x.mean((2, 3))) / x.shape[0]


# What depends on the frames beside it


class NormOfBatch(_Body):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)

    def finish(self, x):
        return self.head(self.norm(x).relu().mean((2, 3)))


class ScaledByBatch(_Body):
    def finish(self, x):
        return self.head((x / x.max()).mean((2, 3)))


class LessMeanOfBatch(_Body):
    def finish(self, x):
        x = x.mean((2, 3))
        return self.head(x - x.mean(0))


class RankOfBatch(_Body):
    def finish(self, x):
        return self.head(x.mean((2, 3))).argsort(0).float()


class SoftmaxOfBatch(_Body):
    def finish(self, x):
        return self.head(x.mean((2, 3))).softmax(0)


class LessFirstFrame(_Body):
    def finish(self, x):
        x = x.mean((2, 3))
        return self.head(x - x[:1])


class LessLastFrame(_Body):
    def finish(self, x):
        x = x.mean((2, 3))
        return self.head(x - x[-1:])


class TurnedRound(_Body):
    """The frame in the middle stays where it is."""

    def finish(self, x):
        return self.head(x.mean((2, 3)).flip(0))


class AttentionOverBatch(_Body):
    """nn.MultiheadAttention's default has the sequence first; given [batch, ...], frames attend to frames."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)

    def finish(self, x):
        x = x.flatten(2).transpose(1, 2)
        return self.attention(x, x, x, need_weights=False)[0].mean(1)


# What differs each time


class DropoutAlive(_Body):
    def finish(self, x):
        return self.head(F.dropout(x.mean((2, 3)), 0.3))


class Noise(_Body):
    def finish(self, x):
        return self.head(x.mean((2, 3)) + 0.1 * torch.randn(8))


# Too large to be run a dozen times


class Large(nn.Module):
    """31 GFLOP at 640 x 640. `end`: what is done with what is left of each frame; `sides`: of a table that
    fits no other size.
    """

    def __init__(self, end: str = "", sides: int = 0) -> None:
        super().__init__()
        layers = [nn.Conv2d(64, 64, 3, 1, 1) for _ in range(4)]
        self.body = nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU(), *layers)
        self.head = nn.Linear(64, 5)
        self.end = end
        self.table = nn.Parameter(torch.rand(64, sides, sides)) if sides else 0.0

    def forward(self, x: Tensor) -> Tensor:
        x = (self.body(x) + self.table).mean((2, 3), keepdim=True)
        if self.end == "squeeze":
            return self.head(x.squeeze())
        x = self.head(x.flatten(1))
        if self.end == "mixes":
            return x - x.mean(0)
        if self.end == "branches" and len(x) == 1:
            return x * 2
        return x


# Reads values while it is built


class DropPath(_Body):
    """A schedule with .item(), as every ViT and Swin has."""

    def __init__(self) -> None:
        super().__init__()
        rates = [rate.item() for rate in torch.linspace(0, 0.2, 4)]
        self.scale = nn.Parameter(torch.full((8,), 1 - rates[-1]))

    def finish(self, x):
        return self.head(x.mean((2, 3)) * self.scale)


class NumpyConstants(_Body):
    """A position table made with numpy, from values of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(torch.arange(8.0).numpy() ** 0.5))

    def finish(self, x):
        return self.head(x.mean((2, 3)) + self.table)


class AutocastOfDevice(_Body):
    def finish(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return self.head(x.float().mean((2, 3)))


# Regions


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Plain(nn.Module):
    """`region` 'none', 'cpu' or 'cuda' (autocast), 'off', 'no_grad', 'nested': around the same layers."""

    def __init__(self, region: str = "none") -> None:
        super().__init__()
        self.region = region
        self.layers = nn.Sequential(_conv(3, 8), _conv(8, 8), _conv(8, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        match self.region:
            case "none":
                return self.work(x)
            case "cpu":
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    return self.work(x)
            case "cuda":
                with torch.autocast("cuda", dtype=torch.float16):
                    return self.work(x)
            case "off":
                with torch.autocast("cpu", enabled=False):
                    return self.work(x)
            case "no_grad":
                with torch.no_grad():
                    x = self.layers(x)
                with torch.enable_grad():
                    return self.head(x.mean((2, 3)))
            case _:
                with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
                    x = self.layers(x)
                    with torch.autocast("cpu", enabled=False):
                        x = self.layers[2](self.layers[1][0](x.float()))
                    return self.head(x.mean((2, 3)))

    def work(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


# Operators


class Recurrent(_Body):
    """An LSTM and a GRU over the rows of a feature map, as readers of text have them."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 16, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(32, 8, batch_first=True)

    def finish(self, x):
        rows = x.permute(0, 2, 1, 3).flatten(2)
        return self.head(self.gru(self.lstm(rows)[0])[0][:, -1])


class Einsum(_Body):
    def finish(self, x):
        x = x.flatten(2)
        scores = torch.einsum("bcn,bcm->bnm", x, x).softmax(-1)
        return self.head(torch.einsum("bnm,bcm->bcn", scores, x).mean(2))


class Encoder(_Body):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def finish(self, x):
        return self.head(self.layer(x.flatten(2).transpose(1, 2)).mean(1))


class WeightsThroughOperators(_Body):
    """weight_norm, spectral_norm, a weight turned on the fly, a table that is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.normed = parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.spectral = parametrizations.spectral_norm(nn.Linear(8, 8))
        self.turned = nn.Parameter(torch.randn(8, 8))
        self.table = nn.Parameter(torch.randn(4, 8))
        self.register_buffer("index", torch.tensor([3, 1, 2, 2]))

    def finish(self, x):
        x = self.normed(x).flatten(2).transpose(1, 2)
        x = self.spectral(x) @ self.turned.t() + self.table[self.index].repeat(4, 1)
        return self.head(x.mean(1))


class Chooses(_Body):
    """A condition on something that is no frame: a buffer that says which head is in use."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by = by
        self.wide = nn.Conv2d(8, 8, 3, 1, 1)
        self.register_buffer("on", torch.tensor(True))

    def finish(self, x):
        if self.by == "none":
            return self.head(self.wide(x).mean((2, 3)))
        x = torch.cond(self.on, lambda y: self.wide(y), lambda y: y * 2, (x,))
        return self.head(x.mean((2, 3)))


# Outputs


@dataclass
class HubOutput(OrderedDict):
    """As model hubs have it: an ordered dict, registered without key paths, None left out."""

    logits: Tensor | None = None
    hidden: tuple[Tensor, ...] | None = None
    attention: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("logits", "hidden", "attention"):
            if getattr(self, name) is not None:
                self[name] = getattr(self, name)


pytree.register_pytree_node(
    HubOutput,
    lambda value: (list(value.values()), list(value.keys())),
    lambda values, keys: HubOutput(**dict(zip(keys, values, strict=True))),
    serialized_type_name="tests.HubOutput",
)


@dataclass
class Known:
    logits: Tensor
    features: Tensor
    loss: Tensor | None = None


torch.export.register_dataclass(Known, serialized_type_name="tests.Known")


@dataclass
class Unknown:
    logits: Tensor


class Pair(NamedTuple):
    logits: Tensor
    features: Tensor


class Bag:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Returns(nn.Module):
    """`what` says what is returned."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Conv2d(8, 8, 3, 1, 1)
        self.third = nn.Conv2d(8, 8, 3, 1, 1)
        self.head = nn.Linear(8, 5)
        self.register_buffer("anchors", torch.rand(6, 4))

    def forward(self, x: Tensor) -> Any:
        one = self.first(x).relu()
        two = self.second(one).relu()
        features = self.third(two).mean((2, 3))
        logits = self.head(features)
        score = features.amax(1)
        results: dict[str, Any] = {
            "hub": lambda: HubOutput(logits=logits, hidden=(one, two)),
            "known": lambda: Known(logits=logits, features=features),
            "named": lambda: Pair(logits, features),
            "nested": lambda: {"boxes": [logits, features], "extra": {"score": score}},
            "none": lambda: (logits, None, features),
            "number": lambda: score,
            "squeezed": lambda: logits[:, :1].squeeze(1),
            "best": lambda: (logits.argmax(1), logits.max(1)),
            "across": lambda: self.head(self.third(two * score_of(one)[:, None, None, None]).mean((2, 3))),
            "twice": lambda: {"logits": logits, "out": logits},
            "input": lambda: {"logits": logits, "image_back": x},
            "input_name": lambda: {"image": logits},
            "half": lambda: logits.bfloat16(),
            "everything": lambda: {
                "hub": HubOutput(logits=logits, hidden=(one,)),
                "image_back": x,
                "score": score,
                "again": logits,
                "half": logits.bfloat16(),
                "best": logits.argmax(1),
                "none": None,
            },
            "mask": lambda: (logits > 0, logits.half()),
            "anchors": lambda: (logits, self.anchors),
            "anchors_of_one": lambda: (logits, self.anchors[None]),
            "unknown": lambda: Unknown(logits),
            "bag": lambda: Bag(logits),
            "text": lambda: {"logits": logits, "name": "net"},
            "shape": lambda: (logits, x.shape[0]),
            "same_names": lambda: {"a b": logits, "a-b": features},
            "nothing": lambda: None,
            "mean_of_batch": lambda: logits.mean(0),
            "complex": lambda: torch.fft.rfft(features),
            "dynamic": lambda: logits[logits > 0],
        }
        return results[self.what]()


def score_of(x: Tensor) -> Tensor:
    return x.mean((1, 2, 3))


# Weights and wrappers


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 1, 1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)).relu())


class Wrapping(nn.Module):
    """A network whose weights were saved without the wrapper."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Small()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def scripted() -> nn.Module:
    module: nn.Module = torch.jit.script(Small().eval())
    return module


def parallel() -> nn.Module:
    return nn.DataParallel(Small())


def compiled() -> nn.Module:
    module: nn.Module = torch.compile(Small())  # type: ignore[assignment]
    return module


# Operators of other libraries


@torch.library.custom_op("wildlib::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("wildlib::mixed", mutates_args=())
def mixed(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight


@mixed.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty((*x.shape[:-1], weight.shape[1]), dtype=x.dtype, device=x.device)


@torch.library.custom_op("wildlib::failing", mutates_args=())
def failing(x: Tensor) -> Tensor:
    if threading.current_thread().name == "compute":
        raise RuntimeError("there is no device any more")
    return x * 2


@failing.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Failing(_Body):
    """Right while it is profiled and warmed up, and fails on the thread that serves."""

    def finish(self, x):
        return self.head(failing(x).mean((2, 3)))


class Foreign(_Body):
    def finish(self, x):
        return self.head(twice(x).mean((2, 3)))


class ForeignProduct(nn.Module):
    """Nearly all of its work is an operator that nothing is known of."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.randn(192, 512) / 16)
        self.two = nn.Linear(512, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(mixed(x.flatten(1), self.one))
