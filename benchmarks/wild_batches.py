# ruff: noqa: E501 (tables of networks)
"""Networks of any number of frames: a frame's answer is its own, however many there are and whichever; served as
the unsplit one answers, or refused in one line.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.helpers.wild.case import Expected, WildCase
from benchmarks.helpers.wild.network import WildNetwork

TAKEN, REFUSED = Expected.TAKEN, Expected.REFUSED
LINE = r"\.py:\d+ in \w+"


def _taken(id: str, forward: str, made: str = "") -> WildNetwork:
    return WildNetwork(f"batch-{id}", "any number of frames", TAKEN, forward=forward, made=made)


def _eats(id: str, forward: str, *names: str, made: str = "") -> WildNetwork:
    return WildNetwork(
        f"eats-{id}", "the batch of one", REFUSED, forward=forward, names=(LINE, *names), made=made
    )


def _mixes(id: str, forward: str, *names: str, made: str = "") -> WildNetwork:
    return WildNetwork(
        f"mixes-{id}",
        "frames depend on others",
        REFUSED,
        forward=forward,
        names=(LINE, r"batch_sizes: \[1\]", *names),
        made=made,
    )


def _varies(id: str, forward: str, *names: str, made: str = "") -> WildNetwork:
    return WildNetwork(
        f"varies-{id}",
        "another answer each time",
        REFUSED,
        forward=forward,
        names=(LINE, "differently each time", *names),
        made=made,
    )


def _alone(id: str, forward: str, made: str = "") -> WildNetwork:
    return WildNetwork(
        f"alone-{id}", "one frame at a time", TAKEN, forward=forward, made=made, model={"batch_sizes": [1]}
    )


def cases() -> Iterator[WildCase]:
    """Every network."""
    return (network.case("batches") for network in NETWORKS)


NETWORKS = (
    _taken("flatten", "return self.head(F.adaptive_avg_pool2d(self.maps(x), 1).flatten(1))"),
    _taken("squeeze-named", "return self.head(F.adaptive_max_pool2d(self.maps(x), 1).squeeze(-1).squeeze(-1))"),
    _taken("view-of-size", "x = self.maps(x)\nreturn self.long(x.view(x.size(0), -1))", "self.long = nn.Linear(768, 7)"),
    _taken("unpacked-shape", "x = self.maps(x)\nb, c, h, w = x.shape\nreturn self.head(x.reshape(b, c, h * w).mean(-1))"),
    _taken("class-token", """
        x = self.maps(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.position
        return self.head(self.attend(x, x, x)[0][:, 0])""",
        "self.token = nn.Parameter(torch.randn(1, 1, 12))\nself.position = nn.Parameter(torch.randn(1, 65, 12))\n"
        "self.attend = nn.MultiheadAttention(12, 2, batch_first=True)"),
    _taken("windows", """
        x = self.maps(x)
        b, c, h, w = x.shape
        windows = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        windows = self.mix(windows).softmax(-1)
        x = windows.view(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        return self.head(x.mean((2, 3)))""", "self.mix = nn.Linear(12, 12)"),
    _taken("shuffle", """
        x = self.maps(x)
        b, c, h, w = x.size()
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        return self.head(self.next(x).mean((2, 3)))"""),
    _taken("gate", "x = self.maps(x)\nreturn self.head((x * torch.sigmoid(self.next(x.mean((2, 3), keepdim=True)))).mean((2, 3)))"),
    _taken("instance-norm", "return self.head(self.own(self.maps(x)).relu().mean((2, 3)))", "self.own = nn.InstanceNorm2d(12, affine=True)"),
    _taken("frames-in-channels", "x = self.maps(x)\nreturn self.head(self.group(x).amax((2, 3)))", "self.group = nn.GroupNorm(2, 12)"),
    _taken("new-zeros", "x = self.maps(x).mean((2, 3))\nreturn self.head(torch.cat((x[:, 1:], x.new_zeros(x.shape[0], 1)), 1))"),
    _taken("dropout-asleep", "return self.head(self.drop(self.maps(x)).mean((2, 3)))", "self.drop = nn.Dropout2d(0.5)"),
    _taken("assert-rank", "assert x.dim() == 4 and x.shape[1] == 3, x.shape\nreturn self.head(self.maps(x).mean((2, 3)))"),
    _taken("batched-product", "x = self.maps(x).flatten(2)\nreturn self.head((torch.bmm(x, x.mT).softmax(-1) @ x).mean(-1))"),
    _eats("torch-squeeze", "return self.head(torch.squeeze(F.adaptive_avg_pool2d(self.maps(x), 1)))", r"flatten\(1\)|squeeze\(\(2, 3\)\)"),
    _eats("squeeze-of-batch", "return self.head(self.maps(x).mean((2, 3)).squeeze(0))", "squeeze"),
    _eats("squeeze-in-place", "x = self.maps(x).mean((2, 3), keepdim=True)\nx.squeeze_()\nreturn self.head(x)", "squeeze"),
    _eats("squeezed-gate", "x = self.maps(x)\nw = x.mean((2, 3), keepdim=True).squeeze()\nreturn self.head((x * torch.sigmoid(w)[:, :, None, None]).mean((2, 3)))", "squeeze"),
    _eats("flat", "return torch.flatten(self.head(self.maps(x).mean((2, 3))))", "batch in front"),
    _eats("reshape-rows", "return self.head(self.maps(x).mean((2, 3)).reshape(12))", "batch"),
    _eats("first-frame", "return self.head(self.maps(x).mean((2, 3)))[0]", "batch"),
    _eats("loss", "return self.head(self.maps(x).mean((2, 3))).pow(2).sum()", "batch"),
    _eats("stack-of-frames", "return torch.stack([self.head(f.mean((1, 2))) for f in self.maps(x)])", "number|batch"),
    _eats("unbind", "return torch.stack([self.head(f.mean((1, 2))) for f in self.maps(x).unbind(0)])", "number|batch"),
    _eats("len", "x = self.maps(x).mean((2, 3))\nif len(x) > 1:\n    x = x * 1\n    x = x + 0.5\nreturn self.head(x)", "batch"),
    _eats("size-one", "x = self.maps(x).mean((2, 3))\nif x.size(0) == 1:\n    return self.head(x).sigmoid()\nreturn self.head(x)", "batch"),
    _eats("assert-pairs", "assert x.shape[0] % 2 == 0\nreturn self.head(self.maps(x).mean((2, 3)))"),
    _eats("fixed-batch", "return self.head(self.maps(x).reshape(4, 12, -1).mean(2))", "batch"),
    _eats("per-frame", "return self.head(self.maps(x).mean((2, 3))) * x.shape[0]", "how many frames"),
    _eats("item-of-shape", "n = int(x.shape[0])\nreturn self.head(self.maps(x).reshape(n, 12, -1).mean(2))", "batch|frames"),
    _mixes("batch-norm-function", "return self.head(F.batch_norm(self.maps(x), None, None, training=True).relu().mean((2, 3)))", "track_running_stats=True"),
    _mixes("norm-in-training", "self.late.train()\nreturn self.head(self.late(self.maps(x)).relu().mean((2, 3)))", made="self.late = nn.BatchNorm2d(12, track_running_stats=False)"),
    _mixes("standardised", "x = self.maps(x)\nreturn self.head(((x - x.mean()) / (x.std() + 1e-3)).mean((2, 3)))"),
    _mixes("min-max", "x = self.maps(x)\nx = (x - x.min()) / (x.max() - x.min())\nreturn self.head(x.mean((2, 3)))"),
    _mixes("normalised-rows", "return F.normalize(self.head(self.maps(x).mean((2, 3))), dim=0)"),
    _mixes("legacy-softmax", "return F.softmax(self.head(self.maps(x).mean((2, 3))), dim=-2)"),
    _mixes("sums", "return self.head(self.maps(x).mean((2, 3)).cumsum(0))"),
    _mixes("turned", "return self.head(self.maps(x).mean((2, 3)).roll(1, 0))"),
    _mixes("upside-down", "return self.head(self.maps(x).flip(0).mean((2, 3)))"),
    _mixes("sorted", "return self.head(self.maps(x).mean((2, 3))).sort(dim=0).values"),
    _mixes("others-mean", "x = self.maps(x).mean((2, 3))\nreturn self.head(x - 0.1 * torch.mean(x, dim=0, keepdim=True))"),
    _mixes("lstm-of-frames", "return self.head(self.lstm(self.maps(x).mean((2, 3))[:, None])[0][:, 0])", made="self.lstm = nn.LSTM(12, 12)"),
    _mixes("encoder-of-frames", "return self.head(self.encode(self.maps(x).flatten(2).transpose(1, 2)).mean(1))", made="self.encode = nn.TransformerEncoderLayer(12, 2, 16)"),
    _mixes("similar", "x = F.normalize(self.maps(x).mean((2, 3)))\nreturn self.head((x @ x.t()).softmax(1) @ x)"),
    _mixes("joined", "x = self.maps(x)\nb, c, h, w = x.shape\nx = x.transpose(0, 1).reshape(1, c, b * h, w)\nreturn self.head(self.next(x).reshape(c, b, h, w).transpose(0, 1).mean((2, 3)))"),
    WildNetwork("frames-and-mirrored", "the batch of one", REFUSED, forward="x = torch.cat((x, x.flip(3)))\na, b = self.maps(x).mean((2, 3)).chunk(2)\nreturn self.head(a + b)", names=("batch",)),
    WildNetwork("similarity-table", "the batch of one", REFUSED, forward="x = self.maps(x).mean((2, 3))\nreturn x @ x.t()", names=("batch|frames",)),
    _alone("squeeze", "return self.head(self.maps(x).mean((2, 3))).softmax(0)"),
    _alone("standardised", "x = self.maps(x)\nreturn self.head(((x - x.mean()) / (x.std() + 1e-3)).mean((2, 3)))"),
    _alone("first-minus", "x = self.maps(x).mean((2, 3))\nreturn self.head(x - 0.5 * x[:1])"),
    _varies("dropout2d", "return self.head(F.dropout2d(self.maps(x), 0.3, True).mean((2, 3)))", r"self\.training"),
    _varies("like", "x = self.maps(x)\nreturn self.head((x + torch.rand_like(x)).mean((2, 3)))"),
    _varies("gumbel", "return F.gumbel_softmax(self.head(self.maps(x).mean((2, 3))), dim=1)"),
    _varies("bernoulli", "x = self.maps(x).mean((2, 3))\nreturn self.head(x * torch.bernoulli(torch.full_like(x, 0.5)))"),
    _varies("permuted", "x = self.maps(x).mean((2, 3))\nreturn self.head(x[:, torch.randperm(12)])"),
    _varies("left-in-training", "return self.head(self.drop.train()(self.maps(x)).mean((2, 3)))", made="self.drop = nn.Dropout(0.4)"),
    WildNetwork("counts-calls", "another answer each time", REFUSED, forward="self.calls += 1\nreturn self.head(self.maps(x).mean((2, 3)))", names=("writes to calls",), made='self.register_buffer("calls", torch.zeros(()))'),
    WildNetwork("moving-mean", "another answer each time", REFUSED, forward="y = self.maps(x).mean((2, 3))\nself.mean.mul_(0.9).add_(y.mean(0), alpha=0.1)\nreturn self.head(y - self.mean)", names=("differently each time|writes to",), made='self.register_buffer("mean", torch.zeros(12))'),
    WildNetwork("branch-on-values", "data decide", REFUSED, forward="x = self.maps(x)\nif x.mean() > 0.1:\n    x = x * 2\nreturn self.head(x.mean((2, 3)))", names=(LINE, "depends on the frames beside it")),
    WildNetwork("branch-on-values-alone", "data decide", REFUSED, forward="x = self.maps(x)\nif x.mean() > 0.1:\n    x = x * 2\nreturn self.head(x.mean((2, 3)))", names=(LINE, r"torch\.where|torch\.cond"), model={"batch_sizes": [1]}),
    WildNetwork("item", "data decide", REFUSED, forward="x = self.maps(x)\nreturn self.head(x.mean((2, 3))) * float(x.amax())", names=("batch|data|item",)),
    WildNetwork("numpy-inside", "data decide", REFUSED, forward="y = torch.from_numpy(np.clip(x.numpy(), 0, 1))\nreturn self.head(self.maps(y).mean((2, 3)))", names=("numpy",)),
    WildNetwork("nonzero", "data decide", REFUSED, forward="y = self.head(self.maps(x).mean((2, 3)))\nreturn y[y > 0]", names=("batch",)),
)  # fmt: skip
