"""How much memory a server's pod needs: /dev/shm for tensors, and the rest. Upper bounds, in bytes.

/dev/shm. Triton's Python backend moves every tensor between server and stub through a pool that each stub
owns: shm-default-byte-size at its start, grown by what does not fit, never given back. A hop to a server on
the same host lays the batch's tensors there once more. So for each stub

    shm-default-byte-size + in_flight x max_batch x (input + cut + final output bytes of one frame)

where in_flight counts the batches that are on a worker at once, and the final outputs come back through every
stage of a pipeline. Stubs of the entry take single frames, TRANSPORT_BATCH at once; a cascade's answer has
those of all its crops. A full /dev/shm shows as a bus error of the stub, not as a message: hence a quarter on
top.

The pod. A memory volume counts against the container's limit, so the limit is server + stubs + /dev/shm.
"""

from __future__ import annotations

from collections.abc import Mapping

from model_repo_generator.config import TRANSPORT_BATCH
from model_repo_generator.kubernetes.fleet import Fleet, ServerGroup, python_models, stage_programs
from planner.cascades.served import CascadeEntry
from planner.cluster import Executor
from planner.manifest import DeploymentManifest, ServerAddress
from planner.profile import DTYPE_BYTES, TensorSpec

MIB = 1 << 20
SHM_HEADROOM = 1.25
SERVER_MIB = 512
"""tritonserver itself: 150 MB resident when idle, more with connections and large messages under way, of
which an entry takes 128 MiB at its start.
"""
STUB_MIB: Mapping[Executor, int] = {Executor.CPU: 1024, Executor.EMULATED: 384, Executor.CUDA: 3072}
"""Per stub, host memory: torch's libraries and weights; with CUDA also its context and pinned buffers."""
ENTRY_STUB_MIB = 512
FREE_DIMENSION = 1920
"""Pixels that a free dimension (-1) counts as: a raw full-HD frame fits, either way up."""
ENCODED_BYTES = 2 * MIB
"""What an encoded image, or any other text, counts as."""


def tensor_bytes(tensors: tuple[TensorSpec, ...]) -> int:
    """Bytes per frame of all the tensors."""
    return sum(_bytes_of(tensor) for tensor in tensors)


def stub_count(server: ServerAddress, manifest: DeploymentManifest) -> int:
    """Python processes of a server: ensembles have none, all others one."""
    return len(python_models(manifest, server))


def shm_bytes(
    manifest: DeploymentManifest, server: ServerAddress, *, in_flight: int, default_bytes: int
) -> int:
    """Size of a server's /dev/shm, whole MiB; see the module for the formula."""
    tensors = _stage_tensor_bytes(manifest, server.name, in_flight)
    if manifest.is_entry(server):
        tensors = _entry_tensor_bytes(manifest, in_flight)
    wanted = (stub_count(server, manifest) * default_bytes + tensors) * SHM_HEADROOM
    return max(64, -(-round(wanted) // MIB)) * MIB


def group_shm_bytes(
    fleet: Fleet, group: ServerGroup, *, in_flight: int, default_bytes: int, any_plan: bool = False
) -> int:
    """What the hungriest server of a group needs: its pods have one template. any_plan: by whatever plan."""
    sizes = [
        shm_bytes(fleet.manifest, server, in_flight=in_flight, default_bytes=default_bytes)
        for server in group.servers
    ]
    if not any_plan or group.is_entry:
        return max(sizes)
    each = default_bytes + in_flight * _largest_batch_bytes(fleet.manifest)
    return -(-round(group_stubs(fleet, group, any_plan=True) * each * SHM_HEADROOM) // MIB) * MIB


def group_memory_bytes(
    fleet: Fleet, group: ServerGroup, shm: int, per_stub_mib: int | None, any_plan: bool = False
) -> int:
    """Memory limit of a group's container, /dev/shm included."""
    default = ENTRY_STUB_MIB if group.is_entry else STUB_MIB[group.executor]
    stubs = group_stubs(fleet, group, any_plan)
    return (SERVER_MIB + stubs * (per_stub_mib or default)) * MIB + shm


def group_stubs(fleet: Fleet, group: ServerGroup, any_plan: bool) -> int:
    """Python processes on the server of a group that has most; by whatever plan, and while one replaces
    another, twice as many workers as its GPUs have slices.
    """
    if any_plan and not group.is_entry:
        return 2 * group.most_workers
    return max(stub_count(server, fleet.manifest) for server in group.servers)


def _largest_batch_bytes(manifest: DeploymentManifest) -> int:
    """Of any worker of the plan that was generated; another plan's cuts may differ somewhat."""
    return max(
        program.max_batch_size * tensor_bytes((*program.inputs, *program.outputs, *model.outputs))
        for model, program, _, _ in stage_programs(manifest)
    )


def _stage_tensor_bytes(manifest: DeploymentManifest, server: str, in_flight: int) -> int:
    return sum(
        in_flight * program.max_batch_size * tensor_bytes((*program.inputs, *program.outputs, *model.outputs))
        for model, program, _, owner in stage_programs(manifest)
        if owner == server
    )


def _entry_tensor_bytes(manifest: DeploymentManifest, in_flight: int) -> int:
    """A dispatcher takes what clients send, puts it where stages read it, and gives outputs. A cascade takes
    it once more, and gives the answers of all that came of it.
    """
    frames = in_flight * TRANSPORT_BATCH
    dispatchers = sum(
        frames * (2 * tensor_bytes(model.public_inputs[:1]) + tensor_bytes(model.outputs))
        for model in manifest.models
    )
    return dispatchers + frames * sum(_cascade_bytes(manifest, cascade) for cascade in manifest.cascades)


def _cascade_bytes(manifest: DeploymentManifest, cascade: CascadeEntry) -> int:
    """Of one frame and the largest answer to it."""
    most: dict[str, int] = {"": 1}
    answer = 0
    for member in cascade.members:
        most[member.model] = most[member.of] * member.most
        answer += most[member.model] * tensor_bytes(manifest.model(member.model).outputs)
    return tensor_bytes(manifest.model(cascade.first.model).public_inputs[:1]) + answer


def _bytes_of(tensor: TensorSpec) -> int:
    if tensor.dtype == "BYTES":
        return ENCODED_BYTES
    size = DTYPE_BYTES[tensor.dtype]
    for dimension in tensor.shape:
        size *= FREE_DIMENSION if dimension < 0 else dimension
    return size
