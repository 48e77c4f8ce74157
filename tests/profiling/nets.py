"""Small networks, each with one property that splitting must respect."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANNELS = 4


def conv(inputs: int = CHANNELS, outputs: int = CHANNELS) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Chain(nn.Module):
    """Convolutions one after another."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(3), nn.ReLU(inplace=True), *(nn.Sequential(conv(), nn.ReLU()) for _ in range(depth - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class LongSkip(nn.Module):
    """The first feature map and the input itself are read again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3)
        self.middle = nn.Sequential(conv(), nn.ReLU(inplace=True), conv(), nn.BatchNorm2d(CHANNELS), conv())
        self.last = conv(2 * CHANNELS + 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return self.last(torch.cat([self.middle(first), first, x], dim=1))


class Branches(nn.Module):
    """An inception block: three branches that live side by side, one of them with a split in two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3)
        self.left = nn.Sequential(conv(), conv())
        self.right = conv()
        self.narrow = conv(CHANNELS // 2, CHANNELS // 2)
        self.last = conv(3 * CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        kept, changed = x.chunk(2, dim=1)
        halves = torch.cat([kept, self.narrow(changed)], dim=1)
        return self.last(torch.cat([self.left(x), self.right(x), halves], dim=1))


class TwoOutputs(nn.Module):
    """An early and a late output, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv(3)
        self.aux = conv()
        self.tail = nn.Sequential(conv(), conv())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(x)
        return {"aux": self.aux(x), "main out": self.tail(x)}


class BatchArithmetic(nn.Module):
    """Reads the batch size late, folds it into a dimension and back, and adds tables made on the fly."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv(3)
        self.mix = nn.Linear(64, 64)
        self.head = nn.Linear(CHANNELS * 64, 5)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.body(x)
        rows = x.reshape(batch * CHANNELS, 64)
        rows = self.mix(rows) * self.scale + torch.arange(64) / 64 + torch.zeros(batch * CHANNELS, 1)
        x = rows.view(batch, CHANNELS, 8, 8).permute(0, 2, 3, 1)
        x = x + self.body(torch.ones(batch, 3, 8, 8)).permute(0, 2, 3, 1)
        return self.head(x.reshape(batch, -1))


class InPlace(nn.Module):
    """Writes into a view of a tensor that is read later."""

    def __init__(self) -> None:
        super().__init__()
        self.one = conv(3)
        self.two = conv()

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        top = x[:, :, :4]
        top.mul_(2.0)
        y = self.two(x)
        y += x
        return y.relu_()


class Attention(nn.Module):
    """Patches, one attention layer, a mean: the parts of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x[:, 0])


class Tied(nn.Module):
    """One weight read by two layers far apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3)
        self.shared = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.shared(self.first(x)).relu()).relu()


class Single(nn.Module):
    """One layer."""

    def __init__(self) -> None:
        super().__init__()
        self.only = conv(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.only(x)


class Pointwise(nn.Module):
    """No heavy operator at all."""

    def forward(self, x: Tensor) -> Tensor:
        return ((x * 2).sigmoid() + x).tanh() * 3


class Norms(nn.Module):
    """Batch norms that can be folded into convolutions (three), and two that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4, affine=False))
        self.strided = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6))
        self.twice = nn.Conv2d(6, 6, 1)
        self.after_twice = nn.BatchNorm2d(6)
        self.alone = nn.BatchNorm2d(6)
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                for tensor in (*norm.parameters(), norm.running_mean, norm.running_var):
                    nn.init.uniform_(tensor, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.strided(self.grouped(self.plain(x)))
        twice = self.twice(x)
        return self.alone(self.after_twice(twice) + twice)


class Mixed(nn.Module):
    """Its author runs the middle in FP16 and the end in FP32."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3)
        self.middle = conv().half()
        self.last = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x).half()).float())


class Overflowing(nn.Module):
    """Values that FP16 does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).exp() * 1e5 + 1e5


class DataDependent(nn.Module):
    """Control flow that looks at the frame."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:  # the failing line
            return x + 1
        return x - 1


class NoBatch(nn.Module):
    """Takes dimension 0 for something of a fixed size."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 3, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class MeanOverBatch(nn.Module):
    """An output without the batch dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean(dim=0)


class Counting(nn.Module):
    """Changes a buffer while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv(3)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.body(x)


def not_a_module() -> int:
    return 5


def failing(size: int) -> nn.Module:
    raise RuntimeError(f"cannot make a network of size {size}")


SPLITTABLE = [
    Chain,
    LongSkip,
    Branches,
    TwoOutputs,
    BatchArithmetic,
    InPlace,
    Attention,
    Tied,
    Single,
    Pointwise,
]


class Masked(nn.Module):
    """Passes a mask, of truth values, by two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3)
        self.second = conv()
        self.third = conv()
        self.last = conv()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        mask = x > 0
        return self.last(self.third(self.second(x)) * mask)


class Gated(nn.Module):
    """A SiLU, and a gate per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv(3)
        self.gate = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.last = conv()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.silu(self.first(x))
        gate = torch.sigmoid(self.gate(x.mean(dim=(2, 3), keepdim=True)))
        return self.last(x * gate)


class TwoInputs(torch.nn.Module):
    """An image, and numbers beside it that scale its channels and are answered, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.second = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.scale = torch.nn.Linear(2, CHANNELS)

    def forward(self, image, size):
        features = torch.relu(self.first(image))
        scaled = self.second(features) * self.scale(size.to(image.dtype))[:, :, None, None]
        return {"scores": scaled.mean((2, 3)), "area": size.prod(1)}
