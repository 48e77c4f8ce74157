"""What a GPU did while it was timed: clocks, power, temperature, and whether it held itself back (NVML).

pynvml (package nvidia-ml-py) and the driver's library are optional: without them the summary says so, and
nothing of this is known. Reasons are NVML's clocks event reasons; idleness and clocks that somebody set are
no throttling.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

THROTTLING: Mapping[str, int] = {
    "power cap": 0x04,
    "hardware slowdown": 0x08,
    "thermal slowdown (software)": 0x20,
    "thermal slowdown (hardware)": 0x40,
    "power brake": 0x80,
}
"""Bits of nvmlClocksEventReasons that mean: slower than the device could be."""
MARK_SHARE = 0.05
"""Share of samples with a reason from which on a profile is marked."""


@dataclass(frozen=True)
class GpuSummary:
    """`throttled`: share of the samples per reason, those over MARK_SHARE. `facts`: what to record."""

    facts: Mapping[str, str]
    throttled: Mapping[str, float]


class GpuWatch:
    """Samples one device. Sample while it is busy: an idle one has low clocks and no reasons."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle
        self._samples = 0
        self._reasons: Counter[str] = Counter()
        self._ranges: dict[str, tuple[float, float]] = {}

    def sample(self) -> None:
        """Look once; what the device does not tell is left out."""
        library, handle = self._library, self._handle
        self._samples += 1
        bits = self._first(
            ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"), handle
        )
        self._reasons.update(name for name, bit in THROTTLING.items() if int(bits or 0) & bit)
        self._note("sm_clock_mhz", self._ask("nvmlDeviceGetClockInfo", handle, library.NVML_CLOCK_SM))
        self._note("memory_clock_mhz", self._ask("nvmlDeviceGetClockInfo", handle, library.NVML_CLOCK_MEM))
        self._note(
            "temperature_c",
            self._ask("nvmlDeviceGetTemperature", handle, library.NVML_TEMPERATURE_GPU),
        )
        self._note("power_w", self._ask("nvmlDeviceGetPowerUsage", handle), scale=1e-3)

    def summary(self) -> GpuSummary:
        """All samples so far."""
        facts = {name: f"{low:g} to {high:g}" for name, (low, high) in self._ranges.items()}
        driver = self._ask("nvmlSystemGetDriverVersion")
        if driver is not None:
            facts["driver"] = driver.decode() if isinstance(driver, bytes) else str(driver)
        largest = self._ask("nvmlDeviceGetMaxClockInfo", self._handle, self._library.NVML_CLOCK_SM)
        if largest is not None:
            facts["sm_clock_max_mhz"] = str(largest)
        shares = {name: count / self._samples for name, count in self._reasons.items()}
        return GpuSummary(
            facts=facts,
            throttled={name: share for name, share in sorted(shares.items()) if share >= MARK_SHARE},
        )

    def _note(self, name: str, value: float | None, scale: float = 1.0) -> None:
        if value is not None:
            low, high = self._ranges.get(name, (value * scale, value * scale))
            self._ranges[name] = (min(low, value * scale), max(high, value * scale))

    def _first(self, names: tuple[str, ...], *arguments: Any) -> Any:
        """The answer of the first call that the library and the driver both have."""
        return next((answer for name in names if (answer := self._ask(name, *arguments)) is not None), None)

    def _ask(self, name: str, *arguments: Any) -> Any:
        """An answer, or None where this device or driver has none."""
        call = getattr(self._library, name, None)
        if call is None:
            return None
        try:
            return call(*arguments)
        except self._library.NVMLError:
            return None


def watch_gpu(device: str) -> tuple[GpuWatch | None, str]:
    """(a watch of a torch device, '') or (None, why not); on a CPU there is nothing to watch."""
    if not device.startswith("cuda"):
        return None, ""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return open_watch(f"GPU-{uuid}")


def open_watch(uuid: str) -> tuple[GpuWatch | None, str]:
    """(a watch of the GPU of this UUID, ''), or (None, why not)."""
    try:
        library: Any = importlib.import_module("pynvml")
    except ImportError:
        return None, "NVML unknown: package nvidia-ml-py is not installed"
    try:
        library.nvmlInit()
        # By UUID: NVML numbers devices without regard to CUDA_VISIBLE_DEVICES.
        return GpuWatch(library, library.nvmlDeviceGetHandleByUUID(uuid)), ""
    except library.NVMLError as error:
        return None, f"NVML unknown: {error}"
