"""One ONNX file in ONNX Runtime on one device, fed and read without copies that can be done without.

Rules
- Only onnxruntime and numpy are imported: a stage's stub needs no torch and no onnx.
- On a CPU inputs are read where they lie and outputs written into arrays that the caller keeps. On a GPU all
  values stay there until they are given back (IO binding).
- One CPU thread, unless told otherwise: a server has as many workers as it should keep cores busy.
- TensorRT's engines are kept (stage.engine_cache): what `ppipe profile` has built on a node is there when a
  stage loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from planner.execution import CONTEXT_BYTES, ExecutorOptions, Precision, Provider
from planner.profile import TensorSpec
from python_backend.stage.engine_cache import engines_of
from python_backend.stage.executors.errors import ProgramError
from python_backend.wire.kserve import NUMPY_OF, Array

_NAMES = {
    Provider.CPU: "CPUExecutionProvider",
    Provider.CUDA: "CUDAExecutionProvider",
    Provider.TENSORRT: "TensorrtExecutionProvider",
}
_QUIET = 3

Specs = tuple[TensorSpec, ...]


@dataclass(frozen=True)
class SessionDevice:
    """Where a program runs. device: 'cpu', 'cuda' or 'cuda:1'. memory_bytes: what it may take of the GPU."""

    device: str = "cpu"
    threads: int = 1
    memory_bytes: int | None = None

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device.startswith("cuda")

    @property
    def number(self) -> int:
        """Of the GPU."""
        return int(self.device.partition(":")[2] or 0)


class OnnxSession:
    """See the module. Values are arrays on a CPU and OrtValues on a GPU."""

    def __init__(
        self,
        program: bytes,
        inputs: Specs,
        outputs: Specs,
        options: ExecutorOptions,
        place: SessionDevice,
        largest_batch: int,
    ) -> None:
        """Raises ProgramError."""
        chosen = provider_of(options, place)
        require_provider(chosen)
        self._place = place
        self._inputs = inputs
        self._outputs = outputs
        try:
            self._session = onnxruntime.InferenceSession(
                program,
                _session_options(place),
                providers=_providers(chosen, options, place, inputs, largest_batch, program),
            )
        except Exception as error:
            raise ProgramError(f"ONNX Runtime does not take the program: {error}") from error
        self._input_names = [each.name for each in self._session.get_inputs()]
        self._output_names = [each.name for each in self._session.get_outputs()]
        if (len(self._input_names), len(self._output_names)) != (len(inputs), len(outputs)):
            raise ProgramError(
                f"the program takes {len(self._input_names)} and gives {len(self._output_names)} tensors; "
                f"the manifest says {len(inputs)} and {len(outputs)}"
            )
        self._require_on_gpu(chosen)

    def _require_on_gpu(self, chosen: Provider) -> None:
        """ONNX Runtime falls back to the CPU without a word where a provider's libraries are missing."""
        if self._place.is_gpu and _NAMES[chosen] not in self._session.get_providers():
            raise ProgramError(
                f"ONNX Runtime could not start its provider '{chosen.value}' (its log says why: CUDA, cuDNN "
                "or TensorRT of another version, or missing)"
            )

    def take(self, arrays: Sequence[Any]) -> Sequence[Any]:
        """Arrays of the host as values of the device."""
        if not self._place.is_gpu:
            return [np.ascontiguousarray(array) for array in arrays]
        return [
            value
            if isinstance(value, onnxruntime.OrtValue)
            else onnxruntime.OrtValue.ortvalue_from_numpy(
                np.ascontiguousarray(value), "cuda", self._place.number
            )
            for value in arrays
        ]

    def run(self, values: Sequence[Any]) -> Sequence[Any]:
        """The outputs for one batch; complete when it returns."""
        return self._run_on_gpu(values) if self._place.is_gpu else self._run_on_cpu(values)

    def give(self, values: Sequence[Any]) -> list[Array]:
        """Values as arrays of the host."""
        return [value.numpy() if isinstance(value, onnxruntime.OrtValue) else value for value in values]

    def _run_on_cpu(self, arrays: Sequence[Array]) -> list[Array]:
        binding = self._session.io_binding()
        for name, array, spec in zip(self._input_names, arrays, self._inputs, strict=True):
            binding.bind_input(name, "cpu", 0, NUMPY_OF[spec.dtype], array.shape, array.ctypes.data)
        made: list[Array] = []
        for name, spec in zip(self._output_names, self._outputs, strict=True):
            array = np.empty((len(arrays[0]), *spec.shape), NUMPY_OF[spec.dtype])
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            made.append(array)
        self._session.run_with_iobinding(binding)
        return made

    def _run_on_gpu(self, values: Sequence[Any]) -> Sequence[Any]:
        binding = self._session.io_binding()
        for name, value in zip(self._input_names, values, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name in self._output_names:
            binding.bind_output(name, "cuda", self._place.number)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        made: Sequence[Any] = binding.get_outputs()
        return made


def provider_of(options: ExecutorOptions, place: SessionDevice) -> Provider:
    """The provider that runs a program: the options', or the one of the device."""
    if not place.is_gpu:
        return Provider.CPU
    return Provider.CUDA if options.provider in (Provider.AUTO, Provider.CPU) else options.provider


def require_provider(provider: Provider) -> None:
    """Raises ProgramError where this onnxruntime has not got it."""
    there = onnxruntime.get_available_providers()
    if _NAMES[provider] not in there:
        raise ProgramError(
            f"provider '{provider.value}' is not part of this onnxruntime {onnxruntime.__version__}, which "
            f"has {', '.join(there)}: install onnxruntime-gpu in its place"
        )


def _session_options(place: SessionDevice) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = place.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(
    provider: Provider,
    options: ExecutorOptions,
    place: SessionDevice,
    inputs: Specs,
    largest_batch: int,
    program: bytes,
) -> list[tuple[str, Mapping[str, str]]]:
    """What ONNX Runtime is to try, in order, with settings."""
    cpu: tuple[str, Mapping[str, str]] = (_NAMES[Provider.CPU], {})
    if provider is Provider.CPU:
        return [cpu]
    cuda = (_NAMES[Provider.CUDA], cuda_settings(options, place))
    if provider is Provider.CUDA:
        return [cuda, cpu]
    tensorrt = tensorrt_settings(options, place, inputs, largest_batch, program)
    return [(_NAMES[Provider.TENSORRT], tensorrt), cuda, cpu]


def cuda_settings(options: ExecutorOptions, place: SessionDevice) -> Mapping[str, str]:
    """Of the CUDA provider. Raises ProgramError where the worker's memory would not even hold CUDA."""
    settings = {
        "device_id": str(place.number),
        "use_tf32": "1" if options.precision is Precision.TF32 else "0",
        "prefer_nhwc": "1" if options.channels_last else "0",
        "arena_extend_strategy": "kSameAsRequested",
    }
    if place.memory_bytes is not None:
        settings["gpu_mem_limit"] = str(memory_limit(place.memory_bytes))
    return settings


def tensorrt_settings(
    options: ExecutorOptions, place: SessionDevice, inputs: Specs, largest_batch: int, program: bytes
) -> Mapping[str, str]:
    """Of the TensorRT provider: one engine for all batch sizes, kept."""
    engines = engines_of(program, place.number)
    settings = {
        "device_id": str(place.number),
        "trt_fp16_enable": str(options.precision is Precision.FP16),
        "trt_bf16_enable": str(options.precision is Precision.BF16),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(engines.parent),
        "trt_profile_min_shapes": _shapes(inputs, 1),
        "trt_profile_opt_shapes": _shapes(inputs, largest_batch),
        "trt_profile_max_shapes": _shapes(inputs, largest_batch),
    }
    if place.memory_bytes is not None:
        settings["trt_max_workspace_size"] = str(memory_limit(place.memory_bytes))
    return settings


def memory_limit(memory_bytes: int) -> int:
    """What is left for weights and values of a worker's part of a GPU. Raises ProgramError."""
    if memory_bytes <= CONTEXT_BYTES:
        raise ProgramError(
            f"the plan gives this worker {memory_bytes / 2**30:.2f} GiB of its GPU; CUDA alone needs about "
            f"{CONTEXT_BYTES / 2**30:.2f}: fewer slices, or a larger memory_gib"
        )
    return memory_bytes - CONTEXT_BYTES


def _shapes(inputs: Specs, batch: int) -> str:
    return ",".join(f"{spec.name}:{'x'.join(map(str, (batch, *spec.shape)))}" for spec in inputs)
