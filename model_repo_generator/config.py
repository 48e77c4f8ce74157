"""config.pbtxt texts, made as Triton's own protobuf and printed by it: no text can break out of its field.

Rules
- Stage models have no dynamic batching: the dispatcher forms batches, and a worker runs one at a time.
- Instance count is 1: with more, Triton and not the reservation would choose who runs.
- Parameters are strings; Triton refuses anything else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from ensembles.graphs import EnsembleGraph
from planner.cluster import Executor
from planner.profile import DTYPE_BYTES, TensorSpec

HEADER = "# Written by ppipe generate; change the deployment file, not this.\n"
TRANSPORT_BATCH = 8
"""Frames that a dispatcher may be handed at once, in one request or several; batches are formed later."""
INPUTS_STAY_ON_DEVICE = {"FORCE_CPU_ONLY_INPUT_TENSORS": "no"}
"""Parameter of a stage that is fed on its GPU: else the Python backend copies its inputs to the host."""

_EXECUTION_ENV = "EXECUTION_ENV_PATH"


class ConfigFault(ValueError):
    """What no config.pbtxt can say."""


def stage_config(
    name: str,
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
    max_batch_size: int,
    executor: Executor,
    gpu_id: int,
    parameters: Mapping[str, str],
) -> str:
    """One worker of a stage. Of several inputs each is optional: in place of its tensors, SHARED_FRAMES says
    how many frames lie in shared memory.
    """
    config = _model(name, inputs, outputs, max_batch_size, parameters)
    _make_optional(config)
    _one_instance(config, executor, gpu_id)
    return to_text(config)


def plain_config(
    name: str,
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
    max_batch_size: int,
    executor: Executor,
    gpu_id: int,
    parameters: Mapping[str, str],
    queue_delay_us: int,
    queue_timeout_us: int,
) -> str:
    """A whole model on one worker, batched by Triton; frames too old to finish in time are rejected by it."""
    config = _model(name, inputs, outputs, max_batch_size, parameters)
    _one_instance(config, executor, gpu_id)
    config.dynamic_batching.max_queue_delay_microseconds = queue_delay_us
    policy = config.dynamic_batching.default_queue_policy
    policy.timeout_action = triton.ModelQueuePolicy.REJECT
    policy.default_timeout_microseconds = queue_timeout_us
    return to_text(config)


def dispatcher_config(
    name: str,
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
    parameters: Mapping[str, str],
    ways_in: Collection[str] = (),
) -> str:
    """The dispatcher: dynamic batching with no delay hands it requests in lists, which is faster.

    ways_in: of these inputs a request has one; of all others each. Those of free size may differ within a
    list.
    """
    config = _model(name, inputs, outputs, TRANSPORT_BATCH, parameters)
    for each in config.input:
        each.optional = len(ways_in) > 1 and each.name in ways_in
    for each in config.input:
        each.allow_ragged_batch = -1 in each.dims
    config.instance_group.add(kind=triton.ModelInstanceGroup.KIND_CPU, count=1)
    config.dynamic_batching.max_queue_delay_microseconds = 0
    # Without a queue policy: with one, 2.51 in time hands requests over only as others are answered.
    config.dynamic_batching.SetInParent()
    return to_text(config)


def ensemble_config(graph: EnsembleGraph) -> str:
    """An ensemble; it may have neither instances nor a backend."""
    config = triton.ModelConfig(
        name=graph.name,
        platform="ensemble",
        max_batch_size=graph.max_batch_size,
        input=[_input(tensor) for tensor in graph.inputs],
        output=[_output(tensor) for tensor in graph.outputs],
    )
    for step in graph.steps:
        made = config.ensemble_scheduling.step.add(model_name=step.model, model_version=-1)
        made.input_map.update(step.inputs)
        made.output_map.update(step.outputs)
    return to_text(config)


def environment_parameters(path: PurePath | None) -> Mapping[str, str]:
    """Have Triton's Python backend run a model's stubs in the environment at `path`."""
    return {} if path is None else {_EXECUTION_ENV: str(path)}


def to_text(config: Any) -> str:
    """Protobuf text with our header."""
    return HEADER + str(text_format.MessageToString(config))


def triton_type(dtype: str) -> int:
    """Triton's enum value of a wire type name such as FP32 or BYTES. Raises ValueError."""
    if dtype != "BYTES" and dtype not in DTYPE_BYTES:
        raise ConfigFault(f"dtype {dtype!r} is not one of BYTES, {', '.join(DTYPE_BYTES)}")
    name = "TYPE_STRING" if dtype == "BYTES" else f"TYPE_{dtype}"
    return int(triton.DataType.Value(name))


def _make_optional(config: Any) -> None:
    if len(config.input) > 1:
        for each in config.input:
            each.optional = True


def _model(
    name: str,
    inputs: Iterable[TensorSpec],
    outputs: Iterable[TensorSpec],
    max_batch_size: int,
    parameters: Mapping[str, str],
) -> Any:
    config = triton.ModelConfig(
        name=name,
        backend="python",
        max_batch_size=max_batch_size,
        input=[_input(tensor) for tensor in inputs],
        output=[_output(tensor) for tensor in outputs],
    )
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    return config


def _one_instance(config: Any, executor: Executor, gpu_id: int) -> None:
    group = triton.ModelInstanceGroup
    if executor is Executor.CUDA:
        config.instance_group.add(kind=group.KIND_GPU, count=1, gpus=[gpu_id])
    else:
        config.instance_group.add(kind=group.KIND_CPU, count=1)


def _input(tensor: TensorSpec) -> Any:
    return triton.ModelInput(name=tensor.name, data_type=triton_type(tensor.dtype), dims=_dims(tensor))


def _output(tensor: TensorSpec) -> Any:
    return triton.ModelOutput(name=tensor.name, data_type=triton_type(tensor.dtype), dims=_dims(tensor))


def _dims(tensor: TensorSpec) -> tuple[int, ...]:
    if not tensor.shape or 0 in tensor.shape:
        raise ValueError(
            f"tensor {tensor.name!r} has shape {list(tensor.shape)} per frame; Triton needs at least one "
            "dimension and none of size 0"
        )
    return tensor.shape
