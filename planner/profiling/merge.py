"""Merge profiles of one deployment that were made on several nodes, each with its own GPU class.

Rules
- Only profiles of the same split of the same model, run with the same executor options, go together.
- A measured table replaces a stated or estimated one of the same class; two measured ones of a class are an
  error, unless they are equal.
- Overheads that differ: the larger of each, so that a plan does not rest on the faster node's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import Enum

from planner.execution import ExecutorOptions
from planner.frames import FrameCost
from planner.profile import LatencyTable, ModelProfile, Overheads, Profile, Source


class MergeError(ValueError):
    """Profiles that do not go together; the message says of which model and why."""


def merge_profiles(profiles: Sequence[Profile]) -> Profile:
    """One profile with the tables of all. Raises MergeError."""
    if not profiles:
        raise MergeError("no profiles to merge")
    names = dict.fromkeys(model.model for profile in profiles for model in profile.models)
    merged = []
    for name in names:
        found = [model for profile in profiles for model in profile.models if model.model == name]
        merged.append(_merge_model(found))
    return Profile(models=tuple(merged))


def _merge_model(profiles: Sequence[ModelProfile]) -> ModelProfile:
    first = profiles[0]
    tables: dict[tuple[str, int], LatencyTable] = {}
    provenance: dict[str, str] = {}
    for index, profile in enumerate(profiles):
        if profile.split != first.split or profile.cut_bytes != first.cut_bytes:
            raise MergeError(
                f"model {first.model}: profile 1 is of split {first.split or '(none)'} with "
                f"{first.block_count} blocks, "
                f"profile {index + 1} of split {profile.split or '(none)'} with {profile.block_count}: "
                "profile the same "
                "deployment with the same version on every node"
            )
        _require_alike(first, profile, index)
        for table in profile.tables:
            key = (table.gpu, table.slices_per_gpu)
            tables[key] = _better(first.model, tables[key], table) if key in tables else table
        suffix = "" if index == 0 else f"_{index + 1}"
        provenance |= {f"{key}{suffix}": value for key, value in profile.provenance.items()}
    dearest = max(profiles, key=_prepare_us)
    if dearest.prepare is not None and "prepare" in dearest.provenance:
        provenance["prepare"] = dearest.provenance["prepare"]
    errors = [each.precision_error for each in profiles if each.precision_error is not None]
    return dataclasses.replace(
        first,
        tables=tuple(tables.values()),
        provenance=provenance,
        prepare=dearest.prepare,
        overheads=_larger([profile.overheads for profile in profiles]),
        precision_error=max(errors, default=None),
    )


def _prepare_us(profile: ModelProfile) -> float:
    """Of a frame of 1080p: what is planned must hold on the slowest host."""
    return -1.0 if profile.prepare is None else profile.prepare.us(1920 * 1080, 350_000)


def _require_alike(first: ModelProfile, other: ModelProfile, index: int) -> None:
    """Raises MergeError where tensors or executor options differ, which the split does not tell."""
    for name in ("inputs", "outputs", "cut_tensors"):
        if getattr(first, name) != getattr(other, name):
            raise MergeError(
                f"model {first.model}: {name} of profile 1 and profile {index + 1} differ in name, dtype or "
                "shape: profile the same deployment on every node"
            )
    for field in dataclasses.fields(ExecutorOptions):
        one, two = getattr(first.options, field.name), getattr(other.options, field.name)
        if one != two:
            raise MergeError(
                f"model {first.model}: executor_options.{field.name} is {_plain(one)} in profile 1 and "
                f"{_plain(two)} in profile {index + 1}: profile with the same options on every node"
            )


def _plain(value: object) -> object:
    return value.value if isinstance(value, Enum) else value


def _larger(all_overheads: Sequence[Overheads]) -> Overheads:
    return Overheads(
        stage_us=max(each.stage_us for each in all_overheads),
        hop_us=max(each.hop_us for each in all_overheads),
        hop_us_per_byte=max(each.hop_us_per_byte for each in all_overheads),
        entry=_costliest([each.entry for each in all_overheads]),
        dispatch=_costliest([each.dispatch for each in all_overheads]),
    )


def _costliest(costs: Sequence[FrameCost]) -> FrameCost:
    return max(costs, key=lambda cost: (cost.fixed_us, cost.us_per_byte, cost.us_per_pixel))


def _better(model: str, one: LatencyTable, other: LatencyTable) -> LatencyTable:
    if one == other or other.source is not Source.MEASURED:
        return one
    if one.source is not Source.MEASURED:
        return other
    raise MergeError(
        f"model {model}: class {one.gpu} in {one.slices_per_gpu} slices was measured twice, with different "
        "times: leave "
        "one of the profiles out"
    )
