"""What tritonservers take of /dev/shm, and whether it is there before one is started.

The kernel hands out the pages of a file in /dev/shm as they are written: a stub that comes too late gets a
bus error there and then, not a message.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from planner.manifest import DeploymentManifest, ServerAddress
from ppipe.serving.guard import SHM
from python_backend.wire.shm.layout import sizes_of_server

_MIB = 1 << 20
_SHM_PER_STUB = 32 * _MIB
_SHM_SMALLEST = 1 * _MIB


class ShmShort(Exception):
    """/dev/shm is too full to serve; the message says what is left and what is needed."""


def shm_bytes_per_stub(servers: Sequence[ServerAddress], folder: Path = SHM) -> int:
    """Shared memory for each stub at its start: 32 MiB, or less where /dev/shm is small (64 MB in a
    container).
    """
    room = _free(folder) // 2 // max(1, _stubs(servers))
    return max(_SHM_SMALLEST, min(_SHM_PER_STUB, room // _MIB * _MIB))


def least_bytes(manifest: DeploymentManifest, servers: Sequence[ServerAddress]) -> int:
    """What `servers` take at the least: each Python process its region, which holds a batch's tensors in and
    out as well, and each server the files through which its batches leave.
    """
    started = {server.name for server in servers}
    batches = sum(
        program.max_batch_size * sum(spec.bytes_per_frame for spec in (*program.inputs, *program.outputs))
        for entry in manifest.models
        for pipeline, programs in zip(entry.served.pipelines, entry.programs, strict=True)
        for stage, program in zip(pipeline.stages, programs, strict=True)
        for worker in stage.workers
        if worker.server in started
    )
    files = sum(sizes_of_server(manifest, server.name) for server in servers)
    return _stubs(servers) * _SHM_SMALLEST + batches + files


def check_room(manifest: DeploymentManifest, servers: Sequence[ServerAddress], folder: Path = SHM) -> None:
    """Raises ShmShort where `servers` would fill `folder`."""
    needed, free = least_bytes(manifest, servers), _free(folder)
    if needed > free:
        raise ShmShort(
            f"{folder} has {free // _MIB} MiB left, and {-(-needed // _MIB)} MiB are needed for "
            f"{_stubs(servers)} Triton models and the batches between them: remove what fills it, or make it "
            "larger (mount -o remount,size=...; in a container --shm-size, or a memory volume)"
        )


def _stubs(servers: Sequence[ServerAddress]) -> int:
    return sum(len(server.models) for server in servers)


def _free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
