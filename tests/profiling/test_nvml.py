"""What is made of NVML's answers, and of its absence."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from planner.profiling.measuring.nvml import THROTTLING, GpuWatch, open_watch


class NVMLError(Exception):
    pass


def library(reasons, **changes):
    """A stand-in for pynvml: a GPU whose clocks event reasons are `reasons`, one after another."""
    bits = iter(reasons)

    def unsupported(*_):
        raise NVMLError("Not Supported")

    made = {
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": "sm",
        "NVML_CLOCK_MEM": "memory",
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: f"handle of {uuid}",
        "nvmlDeviceGetClockInfo": lambda handle, kind: {"sm": 1500, "memory": 6000}[kind],
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: 2040,
        "nvmlDeviceGetTemperature": unsupported,
        "nvmlDeviceGetPowerUsage": lambda handle: 71_500,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: next(bits),
        "nvmlSystemGetDriverVersion": lambda: b"580.12",
    }
    return SimpleNamespace(**(made | changes))


def watched(samples, **changes):
    watch = GpuWatch(library(samples, **changes), "handle")
    for _ in samples:
        watch.sample()
    return watch.summary()


def test_a_gpu_at_rest_or_with_set_clocks_is_not_throttling():
    summary = watched([0x1, 0x2, 0x10, 0x100] * 10)
    assert summary.throttled == {}
    assert summary.facts == {
        "sm_clock_mhz": "1500 to 1500",
        "memory_clock_mhz": "6000 to 6000",
        "power_w": "71.5 to 71.5",
        "driver": "580.12",
        "sm_clock_max_mhz": "2040",
    }, "temperature is not supported here, and left out"


@pytest.mark.parametrize(("reason", "bit"), THROTTLING.items())
def test_each_reason_that_slows_is_marked_with_its_share(reason, bit):
    assert watched([bit | 0x2] * 3 + [0x2] * 7).throttled == {reason: 0.3}


def test_a_single_moment_is_no_throttling():
    assert watched([0x20] + [0] * 99).throttled == {}


def test_a_driver_that_only_knows_the_older_name_is_asked_by_it():
    def missing(handle):
        raise NVMLError("Function Not Found")

    old = {
        "nvmlDeviceGetCurrentClocksEventReasons": missing,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: 0x40,
    }
    assert watched([0] * 4, **old).throttled == {"thermal slowdown (hardware)": 1.0}


def test_the_absence_of_package_or_driver_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_watch("GPU-1") == (None, "NVML unknown: package nvidia-ml-py is not installed")

    def no_driver():
        raise NVMLError("Shared Library Not Found")

    monkeypatch.setitem(sys.modules, "pynvml", library([], nvmlInit=no_driver))
    assert open_watch("GPU-1") == (None, "NVML unknown: Shared Library Not Found")
    monkeypatch.setitem(sys.modules, "pynvml", library([]))
    watch, note = open_watch("GPU-1")
    assert watch is not None
    assert note == ""
