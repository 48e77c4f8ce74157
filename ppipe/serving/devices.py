"""Are the GPUs there that servers of this host are to use? Asked before they start, of NVML.

Rules
- Without NVML or a driver nothing can be said, and tritonserver's own message has to do.
- A GPU that is divided into MIG devices is not used whole: CUDA would take the first of them each time.
- A number and a UUID may mean one GPU, which is seen only here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from planner.manifest import ServerAddress


class MissingDevice(Exception):
    """A GPU that a server is to use is not on this host; the message names server and device."""


@dataclass(frozen=True)
class GpuDevice:
    """A GPU of this host. `mig`: UUIDs of the devices that it is divided into; None: it is whole."""

    uuid: str
    mig: tuple[str, ...] | None = None


def check_devices(servers: Sequence[ServerAddress]) -> None:
    """Raises MissingDevice, one line per device that cannot be had."""
    if not any(server.devices for server in servers):
        return
    gpus = gpus_here()
    if gpus is not None and (lines := list(_faults(servers, gpus))):
        raise MissingDevice("\n".join(lines))


def _faults(servers: Sequence[ServerAddress], gpus: Sequence[GpuDevice]) -> Iterator[str]:
    owners: dict[str, tuple[str, str]] = {}
    for server in servers:
        for device in server.devices:
            where = f"server {server.name!r}: device {device}"
            uuid = _uuid(device, gpus)
            if uuid is None:
                yield f"{where} is not on this host, which has {_shown(gpus)}"
                continue
            divided = next((gpu.mig for gpu in gpus if gpu.uuid == uuid), None)
            if divided is not None:
                there = ", ".join(divided) or "none is made yet"
                yield f"{where} is divided into MIG devices; state one of them: {there}"
            other, stated = owners.setdefault(uuid, (server.name, device))
            if (other, stated) != (server.name, device):
                yield f"{where} is {uuid}, which server {other!r} has too, as {stated}"


def _uuid(device: str, gpus: Sequence[GpuDevice]) -> str | None:
    """The full UUID that a number, or the beginning of a UUID, means; None where nothing has it."""
    if device.isdigit():
        return gpus[int(device)].uuid if int(device) < len(gpus) else None
    uuids = [uuid for gpu in gpus for uuid in (gpu.uuid, *(gpu.mig or ()))]
    return next((uuid for uuid in uuids if uuid.startswith(device)), None)


def _shown(gpus: Sequence[GpuDevice]) -> str:
    texts = [f"{index} ({', '.join((gpu.uuid, *(gpu.mig or ())))})" for index, gpu in enumerate(gpus)]
    return ", ".join(texts) or "no GPU"


def gpus_here() -> tuple[GpuDevice, ...] | None:
    """This host's GPUs in NVML's order, which nvidia-smi and CUDA_DEVICE_ORDER=PCI_BUS_ID share. None: nobody
    can say.
    """
    try:
        library: Any = importlib.import_module("pynvml")
        library.nvmlInit()
    except Exception:
        return None
    try:
        count = library.nvmlDeviceGetCount()
        return tuple(_gpu(library, library.nvmlDeviceGetHandleByIndex(index)) for index in range(count))
    except library.NVMLError:
        return None
    finally:
        library.nvmlShutdown()


def _gpu(library: Any, handle: Any) -> GpuDevice:
    uuid = _text(library.nvmlDeviceGetUUID(handle))
    try:
        current, _ = library.nvmlDeviceGetMigMode(handle)
    except library.NVMLError:  # a GPU that cannot be divided
        return GpuDevice(uuid)
    if current != library.NVML_DEVICE_MIG_ENABLE:
        return GpuDevice(uuid)
    return GpuDevice(uuid, tuple(_mig_devices(library, handle)))


def _mig_devices(library: Any, handle: Any) -> Iterator[str]:
    for index in range(library.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            device = library.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except library.NVMLError:  # places without a device
            continue
        yield _text(library.nvmlDeviceGetUUID(device))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
