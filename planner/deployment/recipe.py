"""From `preprocess` and the network's input to the recipe that every host works by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from planner.deployment.preprocess import PreprocessSpec
from planner.frames import FrameSize
from planner.ingress import Fit, FrameLimits, InputDtype, Order, PrepareRecipe, frame_input
from planner.profile import TensorSpec
from planner.serial import content_hash

_DTYPES: Mapping[str, InputDtype] = {"FP32": "FP32", "FP16": "FP16", "UINT8": "UINT8"}


class PreprocessFault(ValueError):
    """Preprocessing that does not fit the network's input; the message names the field."""


def recipe_of(spec: PreprocessSpec, target: TensorSpec, model: str) -> PrepareRecipe:
    """For the network's input `target`. Raises PreprocessFault."""
    where = f"models.{model}.preprocess"
    channels, height, width = _shape(spec, target, where)
    frame = frame_input(spec.kind)
    if frame.name == target.name:
        raise PreprocessFault(
            f"models.{model}.input.name: {target.name!r} is what clients' frames are called; "
            "call the model's own input something else"
        )
    scale = spec.base.scale if spec.scale is None else spec.scale
    mean = _per_channel(spec, "mean", channels, where)
    std = _per_channel(spec, "std", channels, where)
    if 0.0 in std:
        raise PreprocessFault(f"{where}.std: {list(std)} has a 0; the standard deviation divides")
    if target.dtype == "UINT8":
        _refuse_floats(spec, target, where)
        scale, mean, std = 1.0, (0.0,) * channels, (1.0,) * channels
    return PrepareRecipe(
        kind=spec.kind,
        frame=frame,
        channels=channels,
        height=height,
        width=width,
        mean=mean,
        std=std,
        planned=spec.to_frame(),
        limits=spec.limits(width * height),
        fit=_fit(spec, channels, where),
        order=_order(spec, target, channels, where),
        layout=spec.layout,
        dtype=_DTYPES[target.dtype],
        scale=scale,
        reduced=spec.decode == "reduced",
    )


def prepare_key(recipe: PrepareRecipe) -> str:
    """Equal for recipes that cost the same to prepare by: a measured cost counts for these."""
    plain = replace(recipe, mean=(), std=(), scale=1.0, planned=FrameSize(1, 1, 1), limits=FrameLimits())
    return content_hash(plain)


def _shape(spec: PreprocessSpec, target: TensorSpec, where: str) -> tuple[int, int, int]:
    """(channels, height, width)."""
    said = f"{where}: the model's input {target.name!r}"
    last = spec.layout == "nhwc"
    shape = (*target.shape[-1:], *target.shape[:-1]) if last else target.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        sides = "height, width"
        makes = f"[{sides}, 3] or [{sides}, 1]" if last else f"[3, {sides}] or [1, {sides}]"
        raise PreprocessFault(
            f"{said} has shape {list(target.shape)}; preprocessing makes {makes} (layout: {spec.layout})"
        )
    if target.dtype not in _DTYPES:
        raise PreprocessFault(f"{said} is {target.dtype}; preprocessing makes FP32, FP16 or UINT8")
    channels, height, width = shape
    return channels, height, width


def _order(spec: PreprocessSpec, target: TensorSpec, channels: int, where: str) -> Order:
    order = spec.order or ("grey" if channels == 1 else spec.base.order)
    if channels == 1 and order != "grey":
        raise PreprocessFault(
            f"{where}.order: {order} has 3 channels, but the model's input {target.name!r} has 1: "
            "expected grey"
        )
    return order


def _fit(spec: PreprocessSpec, channels: int, where: str) -> Fit:
    base = spec.base.fit
    fill = base.fill[:channels]
    if spec.fill is not None:
        fill = (spec.fill,) if isinstance(spec.fill, int) else spec.fill
        _check_count(f"{where}.fill", len(fill), channels)
    return Fit(
        kind=spec.fit or base.kind,
        interpolation=spec.interpolation or base.interpolation,
        fill=fill,
        anchor=spec.anchor or base.anchor,
        share=base.share if spec.share is None else spec.share,
        rounding=spec.rounding or base.rounding,
    )


def _per_channel(spec: PreprocessSpec, name: str, channels: int, where: str) -> tuple[float, ...]:
    """Of a preset's three numbers, a network of one channel gets the first."""
    stated: float | tuple[float, ...] | None = getattr(spec, name)
    if stated is None:
        usual: tuple[float, ...] = getattr(spec.base, name)
        return usual[:channels]
    values = (stated,) if isinstance(stated, float) else stated
    _check_count(f"{where}.{name}", len(values), channels)
    return values if len(values) == channels else values * channels


def _check_count(where: str, count: int, channels: int) -> None:
    if count not in (1, channels):
        numbers = "expected 1 number" if channels == 1 else f"expected 1 or {channels} numbers"
        raise PreprocessFault(f"{where}: {count} numbers for an input of {channels} channels; {numbers}")


def _refuse_floats(spec: PreprocessSpec, target: TensorSpec, where: str) -> None:
    for name in ("scale", "mean", "std"):
        if getattr(spec, name) is not None:
            raise PreprocessFault(
                f"{where}.{name}: the model's input {target.name!r} is UINT8, so pixels stay as they are; "
                "leave it out"
            )
