"""GPUs of servers are looked for before anything starts, and each server sees its own."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from planner.manifest import ServerAddress
from ppipe.serving.binaries import TritonInstall
from ppipe.serving.devices import MissingDevice, check_devices
from ppipe.serving.server_command import server_environment

UUIDS = ("GPU-aaaa-1", "GPU-bbbb-2")


def nvml(count: int = 2) -> types.SimpleNamespace:
    """A driver with so many GPUs, as NVML shows it."""
    return types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: count,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda handle: UUIDS[handle],
    )


def server(*devices: str) -> ServerAddress:
    return ServerAddress("s", "L4", "127.0.0.1", 1, 2, 3, "groups/L4", devices=devices)


@pytest.mark.parametrize("devices", [("0", "1"), ("1",), ("GPU-bbbb",), ("MIG-whatever",), ()])
def test_what_is_there_may_be_used(monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml())
    check_devices([server(*devices)])


@pytest.mark.parametrize("device", ["2", "GPU-cccc"])
def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml())
    with pytest.raises(MissingDevice, match=rf"server 's': device {device} .* has 0 \(GPU-aaaa-1\)"):
        check_devices([server(device)])


def test_without_a_driver_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise OSError("no driver")

    monkeypatch.setitem(__import__("sys").modules, "pynvml", types.SimpleNamespace(nvmlInit=no_driver))
    check_devices([server("7")])


def test_a_server_sees_its_own_gpus_alone(tmp_path: Path) -> None:
    install = TritonInstall(Path("tritonserver"), Path("backends"), {"A": "b"})
    environment = server_environment(install, "p", tmp_path, ("1", "3"))
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_VISIBLE_DEVICES" not in server_environment(install, "p", tmp_path)
