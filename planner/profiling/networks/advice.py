"""What to write in place of a call that cannot be served."""

from __future__ import annotations

from collections.abc import Mapping

_DIMENSION = "give it the dimensions that are not the batch"
SHAPES: Mapping[str, str] = {
    "squeeze": "without a dimension it takes the batch of one frame away too: write flatten(1) or "
    "squeeze((2, 3)), the dimensions that are meant",
    "view": "keep the batch in front: x.view(x.shape[0], -1)",
    "reshape": "keep the batch in front: x.reshape(x.shape[0], -1)",
    "flatten": "keep the batch in front: x.flatten(1)",
}
"""For calls that give one frame another shape."""
SHAPES_DEFAULT = (
    "write what does the same for any number of frames, with the batch in front (flatten(1), "
    "x.reshape(x.shape[0], -1))"
)
MIXES: Mapping[str, str] = {
    "batch_norm": "batch normalisation without statistics of its own takes them from the batch: use "
    "track_running_stats=True, or GroupNorm",
    "instance_norm": "write it with the batch in front",
    **dict.fromkeys(("max", "min", "amax", "amin", "mean", "sum", "std", "var", "norm", "median", "prod"),
        f"{_DIMENSION}: x.amax(dim=(1, 2, 3), keepdim=True), x.mean((2, 3))"),
    **dict.fromkeys(("sort", "argsort", "topk", "softmax", "log_softmax", "cumsum", "argmax", "argmin"),
        "dim=0 is the batch: take another dimension, or leave this step to whoever reads the answers"),
}  # fmt: skip
"""For calls whose answer for one frame depends on others."""
MIXES_DEFAULT = "write it so that a frame's answer depends on that frame alone"
ALONE = "or give the model batch_sizes: [1], and frames are never put together"
VARIES: Mapping[str, str] = {
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout"),
        "it is active at inference: use nn.Dropout, or F.dropout(x, p, self.training)"),
}  # fmt: skip
"""For calls that give something else each time."""
VARIES_DEFAULT = "noise belongs into training alone: if self.training: ..."


def of(table: Mapping[str, str], name: str, default: str) -> str:
    """What the table says of a function, 'max' for 'max_' and 'Tensor.max' alike."""
    return table.get(name.strip("_"), default)
