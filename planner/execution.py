"""How a stage's program is run: numbers, layout, compiler, CUDA graphs. Data only.

One ExecutorOptions per model goes from deployment.yaml through the profile (its tables were measured with
these options) and the manifest to the stage's executor.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

CONTEXT_BYTES = 512 << 20
"""What CUDA takes of a GPU's memory for one process: context, libraries, kernels. Sources: planner.memory."""


class Precision(Enum):
    """Numbers inside a stage. What enters and leaves a stage keeps its declared type."""

    TF32 = "tf32"
    """FP32, with matrix kernels in TF32 where the GPU has it; on a CPU the same as FP32."""
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Compiler(Enum):
    """What turns a program into kernels, once, when a stage warms up."""

    NONE = "none"
    """torch's own kernels, one operator after another."""
    INDUCTOR = "inductor"
    """torch.compile."""
    AUTOTUNE = "autotune"
    """torch.compile that times alternatives of each kernel: minutes of warm-up."""
    AOT_INDUCTOR = "aot-inductor"
    """The program compiled to a shared library: no Python between kernels."""


class Provider(Enum):
    """What of ONNX Runtime runs an ONNX program."""

    AUTO = "auto"
    """The device's: CPU or CUDA."""
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    """Engines, built once per GPU class, driver and program; what TensorRT cannot run is CUDA's."""


@dataclass(frozen=True)
class ExecutorOptions:
    """See the module. The emulated executor takes no notice of any.

    channels_last: image tensors and kernels with the channels innermost.
    cuda_graphs: one captured graph per batch size; no effect without a GPU.
    pad_to_captured: capture powers of two only; other batches run in the next larger graph.
    pinned: pass tensors to and from the GPU through page-locked memory.
    provider: of ONNX programs; torch programs take no notice of it.
    """

    precision: Precision = Precision.TF32
    channels_last: bool = True
    compiler: Compiler = Compiler.NONE
    cuda_graphs: bool = False
    pad_to_captured: bool = False
    pinned: bool = True
    provider: Provider = Provider.AUTO
