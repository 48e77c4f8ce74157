"""Are the GPUs there that servers of this host are to use? Asked before they start, of NVML."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from planner.manifest import ServerAddress


class MissingDevice(Exception):
    """A GPU that a server is to use is not on this host; the message names server and device."""


def check_devices(servers: Sequence[ServerAddress]) -> None:
    """Raises MissingDevice, one line per server. Without NVML or a driver nothing can be said, and
    tritonserver's own message has to do.
    """
    if not any(server.devices for server in servers):
        return
    found = _uuids()
    if found is None:
        return
    lines = [
        f"server {server.name!r}: device {device} is not on this host, which has {_said(found)}"
        for server in servers
        for device in server.devices
        if not _is_there(device, found)
    ]
    if lines:
        raise MissingDevice("\n".join(lines))


def _is_there(device: str, uuids: Sequence[str]) -> bool:
    # MIG devices are no GPUs of NVML's list; CUDA takes a UUID by its beginning.
    if device.startswith("MIG-"):
        return True
    if device.isdigit():
        return int(device) < len(uuids)
    return any(uuid.startswith(device) for uuid in uuids)


def _said(uuids: Sequence[str]) -> str:
    return ", ".join(f"{index} ({uuid})" for index, uuid in enumerate(uuids)) or "no GPU"


def _uuids() -> tuple[str, ...] | None:
    """UUIDs of this host's GPUs in NVML's order, which nvidia-smi and CUDA_DEVICE_ORDER=PCI_BUS_ID share."""
    try:
        library: Any = importlib.import_module("pynvml")
        library.nvmlInit()
    except Exception:
        return None
    try:
        handles = [library.nvmlDeviceGetHandleByIndex(n) for n in range(library.nvmlDeviceGetCount())]
        return tuple(_text(library.nvmlDeviceGetUUID(handle)) for handle in handles)
    finally:
        library.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
