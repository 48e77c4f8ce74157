"""GPUs of servers are looked for before anything starts, and each server sees its own."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from planner.manifest import ServerAddress
from ppipe.serving.binaries import TritonInstall
from ppipe.serving.devices import GpuDevice, MissingDevice, check_devices, gpus_here
from ppipe.serving.server_command import server_environment

UUIDS = ("GPU-aaaa-1", "GPU-bbbb-2")
MIG = {"GPU-bbbb-2": ("MIG-cccc-3", "MIG-dddd-4")}


class NvmlError(Exception):
    """As pynvml raises."""


def driver(monkeypatch: pytest.MonkeyPatch, mig: Mapping[str, Sequence[str]] | None = None) -> None:
    """A driver with both GPUs, as NVML shows it: handles are UUIDs; the first cannot be divided."""
    divided = mig or {}

    def mode(handle: str) -> tuple[int, int]:
        if handle == UUIDS[0]:
            raise NvmlError("not supported")
        return (1, 1) if handle in divided else (0, 0)

    def device(handle: str, index: int) -> str:
        try:
            return divided[handle][index]
        except IndexError:
            raise NvmlError("not found") from None

    library = types.SimpleNamespace(
        NVMLError=NvmlError,
        NVML_DEVICE_MIG_ENABLE=1,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(UUIDS),
        nvmlDeviceGetHandleByIndex=lambda index: UUIDS[index],
        nvmlDeviceGetUUID=lambda handle: handle.encode(),
        nvmlDeviceGetMigMode=mode,
        nvmlDeviceGetMaxMigDeviceCount=lambda handle: 7,
        nvmlDeviceGetMigDeviceHandleByIndex=device,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)


def server(*devices: str, name: str = "s") -> ServerAddress:
    return ServerAddress(name, "L4", "127.0.0.1", 1, 2, 3, "groups/L4", devices=devices)


def test_gpus_and_their_mig_devices_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, MIG)
    assert gpus_here() == (GpuDevice(UUIDS[0]), GpuDevice(UUIDS[1], MIG[UUIDS[1]]))


@pytest.mark.parametrize("devices", [("0", "1"), ("1",), ("GPU-bbbb",), ()])
def test_what_is_there_may_be_used(monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...]) -> None:
    driver(monkeypatch)
    check_devices([server(*devices)])


def test_mig_devices_may_be_used_each_by_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, MIG)
    check_devices([server("0"), server("MIG-cccc-3", name="t"), server("MIG-dddd", name="u")])


@pytest.mark.parametrize("device", ["2", "GPU-cccc", "MIG-eeee"])
def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    driver(monkeypatch)
    with pytest.raises(MissingDevice, match=rf"server 's': device {device} .* has 0 \(GPU-aaaa-1\)"):
        check_devices([server(device)])


@pytest.mark.parametrize("device", ["1", "GPU-bbbb-2"])
def test_a_divided_gpu_is_refused_with_its_devices(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    driver(monkeypatch, MIG)
    with pytest.raises(MissingDevice, match=rf"{device} is divided .* one of them: MIG-cccc-3, MIG-dddd-4"):
        check_devices([server(device)])


def test_one_gpu_under_two_names_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch)
    with pytest.raises(MissingDevice, match=r"device GPU-bbbb is GPU-bbbb-2, which server 's' has too, as 1"):
        check_devices([server("0", "1"), server("GPU-bbbb", name="t")])


def test_without_a_driver_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise OSError("no driver")

    monkeypatch.setitem(sys.modules, "pynvml", types.SimpleNamespace(nvmlInit=no_driver))
    check_devices([server("7")])


def test_a_server_sees_its_own_gpus_alone(tmp_path: Path) -> None:
    install = TritonInstall(Path("tritonserver"), Path("backends"), {"A": "b"})
    environment = server_environment(install, "p", tmp_path, ("1", "3"))
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,3"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_VISIBLE_DEVICES" not in server_environment(install, "p", tmp_path)
