"""GPU classes by name: what their data sheets say, and how much of that inference engines get out of them.

Speeds are dense figures, without structured sparsity (half of what the sheets of Ada and Hopper print), at
boost clocks; `source` names the document of NVIDIA that has them (A100, H100, H200: the SXM board), and what
of an entry is only approximate. Memory is the nominal size: ECC and the driver take 4 to 8 % of it on cards
with GDDR memory, so deployments should say what nvidia-smi shows. `price_per_hour`: about the on-demand list
price of one GPU, US dollars, Google Cloud's where it has the class (2024), else the cheapest single-GPU
instance of another large cloud; for weighing classes against each other, not for budgets. `max_slices`: what
the class is cut into at most, by MIG where it has it, else by MPS, for which four is this package's choice.

`sustained`: share of the matrix peak (TF32 where there is one, FP32 otherwise) that dense convolutions reach
in TensorRT. Fitted for P4, T4, V100 and L4 to public figures of nine CNNs (the PPipe paper's artifact); on a
V100 above 1, as Winograd's algorithm saves multiplications; least where the power limit is tight (T4: 70 W).
The others have the figure of the nearest kind of unit: approximate, so expect more error there.

Expected errors are those of networks that had no part in the fit (`scripts/benchmarks estimate`,
docs/zoo.md), rounded up.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from planner.execution import Precision

GIB = 2**30
MEASURED_CLASSES = ("P4", "T4", "V100", "L4")
TENSOR_CORES_SUSTAIN = 0.6
CUDA_CORES_SUSTAIN = 0.8
"""`sustained` where nobody measured it. On tensor cores before what `tile` of the roofline takes away."""
EXPECTED_ERROR = 0.15
"""Median relative error of whole-model latency on the classes that `sustained` was fitted for."""
EXPECTED_ERROR_ELSEWHERE = 0.4


@dataclass(frozen=True)
class MatrixUnit:
    """`tflops`: peak; `sustained`: the share of it that dense convolutions reach."""

    tflops: float
    sustained: float
    tensor_cores: bool


@dataclass(frozen=True)
class DataSheet:
    """One class.

    Speeds in TFLOPS and GB/s; tf32 None: no tensor cores for it; fp16 None: no fast half precision.
    """

    name: str
    architecture: str
    memory_bytes: int
    gbyte_per_s: float
    fp32: float
    tf32: float | None
    fp16: float | None
    multiprocessors: int
    price_per_hour: float
    sustained: float
    source: str
    max_slices: int = 4
    mig: bool = False

    def matrix_unit(self, precision: Precision = Precision.TF32) -> MatrixUnit:
        """What computes matrix products when a stage asks for this precision.

        A class without tensor cores for it computes in FP32, from and to tensors of that width.
        """
        tensor_cores = self.tensor_tflops(precision)
        tflops = tensor_cores or (self.fp16 if precision is Precision.FP16 else None) or self.fp32
        as_fitted = bool(tensor_cores) == (self.tf32 is not None)
        other = TENSOR_CORES_SUSTAIN if tensor_cores else CUDA_CORES_SUSTAIN
        return MatrixUnit(tflops, self.sustained if as_fitted else other, bool(tensor_cores))

    def tensor_tflops(self, precision: Precision) -> float | None:
        """Peak of the tensor cores; None where there are none for this precision."""
        if self.architecture == "Pascal":
            return None
        peaks = {
            Precision.TF32: self.tf32,
            Precision.FP16: self.fp16,
            Precision.BF16: self.fp16 if self.tf32 else None,  # both came with Ampere, BF16 as fast as FP16
        }
        return peaks.get(precision)

    def expected_error(self, precision: Precision = Precision.TF32) -> float:
        """Median relative error to expect of an uncalibrated estimate."""
        known = self.name in MEASURED_CLASSES and self.matrix_unit(precision) == self.matrix_unit()
        return EXPECTED_ERROR if known else EXPECTED_ERROR_ELSEWHERE


# Name, architecture, memory, bandwidth, FP32, TF32, FP16, multiprocessors, price, sustained, source.
# fmt: off
CATALOGUE: tuple[DataSheet, ...] = (
    DataSheet("P4", "Pascal", 8 * GIB, 192, 5.5, None, None, 20, 0.60, 0.75, "Tesla P4 data sheet"),
    DataSheet("P100", "Pascal", 16 * GIB, 732, 10.6, None, 21.2, 56, 1.46, 0.75,
        "Tesla P100 data sheet (SXM2)"),
    DataSheet("V100", "Volta", 16 * GIB, 900, 15.7, None, 125, 80, 2.48, 1.17,
        "Tesla V100 data sheet (SXM2)"),
    DataSheet("T4", "Turing", 16 * GIB, 320, 8.1, None, 65, 40, 0.35, 0.64, "T4 data sheet"),
    DataSheet("A2", "Ampere", 16 * GIB, 200, 4.5, 9, 18, 10, 0.30, 0.6, "A2 data sheet; price approximate"),
    DataSheet("A10", "Ampere", 24 * GIB, 600, 31.2, 62.5, 125, 72, 1.01, 0.6,
        "A10 data sheet; price approximate"),
    DataSheet("A10G", "Ampere", 24 * GIB, 600, 31.5, 35, 70, 80, 1.01, 0.6,
        "A10G data sheet (EC2 G5); tf32, fp16 approximate"),
    DataSheet("A30", "Ampere", 24 * GIB, 933, 10.3, 82, 165, 56, 1.10, 0.6,
        "A30 data sheet; price approximate", 4, mig=True),
    DataSheet("A40", "Ampere", 48 * GIB, 696, 37.4, 74.8, 149.7, 84, 1.28, 0.6,
        "A40 data sheet; price approximate"),
    DataSheet("A100", "Ampere", 40 * GIB, 1555, 19.5, 156, 312, 108, 2.93, 0.6,
        "A100 data sheet", 7, mig=True),
    DataSheet("A100-80GB", "Ampere", 80 * GIB, 2039, 19.5, 156, 312, 108, 3.93, 0.6,
        "A100 data sheet", 7, True),
    DataSheet("L4", "Ada", 24 * GIB, 300, 30.3, 60, 121, 58, 0.56, 0.6,
        "L4 data sheet; Ada architecture paper"),
    DataSheet("L40S", "Ada", 48 * GIB, 864, 91.6, 183, 362, 142, 1.86, 0.6, "L40S data sheet"),
    DataSheet("H100", "Hopper", 80 * GIB, 3350, 67, 494.5, 989, 132, 9.80, 0.6,
        "H100 data sheet", 7, mig=True),
    DataSheet("H200", "Hopper", 141 * GIB, 4800, 67, 494.5, 989, 132, 10.60, 0.6,
        "H200 data sheet; price approximate", 7, mig=True),
)
# fmt: on


def find_gpu(name: str) -> DataSheet:
    """The class called `name`, whatever its case or maker ('nvidia-l4', 'NVIDIA L4'). Raises KeyError."""
    wanted = _plain(name)
    for gpu in CATALOGUE:
        if _plain(gpu.name) == wanted:
            return gpu
    names = {_plain(gpu.name): gpu.name for gpu in CATALOGUE}
    near = [names[match] for match in difflib.get_close_matches(wanted, names, n=3, cutoff=0.3)]
    hint = f"nearest: {', '.join(near)}; " if near else ""
    raise KeyError(f"no GPU class {name!r} in the catalogue; {hint}known: {', '.join(names.values())}")


def _plain(name: str) -> str:
    lowered = "".join(letter for letter in name.lower() if letter.isalnum())
    return lowered.removeprefix("nvidia").removeprefix("tesla")
