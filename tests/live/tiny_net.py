"""A residual network small enough for live tests: its stages take milliseconds, its answers tell
frames apart.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

DEPLOYMENT = """
name: {name}
cluster:
  base_port: {base_port}
  gpu_classes:
    - {{name: fast, executor: {executor}, stated: {{gflop_per_s: 0.25, gbyte_per_s: 1.0, overhead_us: 200}}}}
    - {{name: slow, executor: {executor}, stated: {{gflop_per_s: 0.05, gbyte_per_s: 0.9, overhead_us: 200}}}}
  groups:
    - {{gpu: fast, count: 1, gpus_per_server: 1}}
    - {{gpu: slow, count: 2, gpus_per_server: 1}}
models:
  - name: tiny
    program: {{factory: "tests.live.tiny_net:TinyNet"}}
    input: {{name: image, dtype: FP32, shape: [3, 32, 32]}}
    slo_ms: {slo_ms}
    batch_sizes: [1, 2]
    blocks: 6
    preprocess: {{kind: jpeg}}
    postprocess: {{task: classification, top_k: 3, raw_outputs: true}}
planner: {{max_stages: 2, slo_margin: 0.85}}
"""


class TinyNet(nn.Module):
    """Four residual blocks at falling resolution, then ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList([Block(16, 16), Block(16, 32), Block(32, 64), Block(64, 64)])
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


class Block(nn.Module):
    """A convolution beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.main(x) + self.shortcut(x))


def write_tiny(
    folder: Path, *, base_port: int, executor: str = "cpu", name: str = "tiny", slo_ms: float = 400
) -> Path:
    """The deployment file."""
    path = folder / "deployment.yaml"
    path.write_text(
        DEPLOYMENT.format(name=name, base_port=base_port, executor=executor, slo_ms=slo_ms), encoding="utf-8"
    )
    return path
