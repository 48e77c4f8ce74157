"""Reads a data folder in the format of the paper's artifact figures: problems and the reference's own plans.

Files: models.json (profiles), settings.json (planning problems of several models), three_stage.json (problems
of one model). The folder is an argument, never part of this project. Block latencies below 1 us are clipped
up to 1 us, as the reference does; the SLO is cut to whole microseconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.cluster import Cluster, GpuClass, Server
from planner.plan import BlockRange, ModelPlan, Pipeline, Plan
from planner.problem import Demand, PlanOptions, Problem
from planner.profile import LatencyTable, ModelProfile, Profile
from planner.rates import assemble, margin_of, timed_stage

DEFAULT_BATCH_BUILD_FACTOR = 1.3


class PaperDataError(ValueError):
    """A data folder that cannot be read; the message names file and field."""


@dataclass(frozen=True)
class PaperSetting:
    """One planning problem with the reference's results for it, as they stand in the file.

    `group` is None for the problems of one model, whose `model` is set instead.
    """

    group: int | None
    cluster: str
    problem: Problem
    reference: Mapping[str, Any]
    model: str | None = None

    @property
    def max_stages(self) -> int:
        """Most stages of a pipeline."""
        return self.problem.options.max_stages

    @property
    def slo_margin(self) -> float:
        """Share of the SLO that plans leave unused."""
        return self.problem.options.slo_margin

    @property
    def name(self) -> str:
        """A short name for tables."""
        return f"{self.model}" if self.group is None else f"{self.group}/{self.cluster}"


def load_settings(data_dir: Path) -> tuple[PaperSetting, ...]:
    """The problems of settings.json, in file order. Raises PaperDataError."""
    models = _read(data_dir, "models.json")
    return tuple(
        _setting(raw, models, f"settings.json[{i}]") for i, raw in enumerate(_read(data_dir, "settings.json"))
    )


def grouped_settings(data_dir: Path, only: Sequence[str] = ()) -> tuple[PaperSetting, ...]:
    """The problems of settings.json that belong to a group of models; of these the ones named in `only`, all
    where it is empty. Raises PaperDataError.
    """
    grouped = (setting for setting in load_settings(data_dir) if setting.group is not None)
    return tuple(setting for setting in grouped if not only or setting.name in only)


def load_three_stage(data_dir: Path) -> tuple[PaperSetting, ...]:
    """The problems of three_stage.json, in file order. Raises PaperDataError."""
    models = _read(data_dir, "models.json")
    return tuple(
        _setting(_as_setting(raw), models, f"three_stage.json[{i}]")
        for i, raw in enumerate(_read(data_dir, "three_stage.json"))
    )


def reference_plan(setting: PaperSetting, planner: str) -> Plan:
    """The artifact's own plan; `planner` is 'ppipe', 'np' or 'dart_r'. Raises PaperDataError if it has
    none.
    """
    raw = setting.reference.get(planner)
    if not isinstance(raw, dict) or "pipelines" not in raw:
        raise PaperDataError(
            f"{setting.name}: no reference plan {planner!r}; there are {', '.join(setting.reference)}"
        )
    problem = setting.problem
    models = tuple(
        _model_plan(problem, demand, pipelines, rate)
        for demand, pipelines, rate in zip(problem.demands, raw["pipelines"], raw["planned_rps"], strict=True)
    )
    objective = float(raw["objective"])
    return Plan(
        planner=planner.replace("_", "-"),
        objective=objective,
        upper_bound=objective,
        gap=0.0,
        solver="the reference's",
        models=models,
    )


def _read(data_dir: Path, name: str) -> Any:
    path = data_dir / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PaperDataError(f"{path}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PaperDataError(f"{path}: not JSON: {error}") from error


def _as_setting(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A problem of one model in the shape of one of several; its GPU classes are in the cluster's name."""
    return {
        "gpu_types": raw["cluster"].split("-"),
        "batch_build_factor": DEFAULT_BATCH_BUILD_FACTOR,
        **raw,
        "group": None,
        "models": [raw["model"]],
        "weights": [1.0],
        "estimated_rps": [raw["estimated_rps"]] if raw.get("estimated_rps") is not None else [],
    }


def _setting(raw: Mapping[str, Any], models: Mapping[str, Any], where: str) -> PaperSetting:
    try:
        cluster = _cluster(raw)
        profile = Profile(models=tuple(_profile(name, models[name], cluster) for name in raw["models"]))
        options = PlanOptions(
            max_stages=raw["max_stages"],
            slo_margin=raw["slo_margin"],
            batch_build_factor=raw.get("batch_build_factor", DEFAULT_BATCH_BUILD_FACTOR),
        )
        problem = Problem(cluster=cluster, profile=profile, demands=_demands(raw, models), options=options)
    except KeyError as error:
        raise PaperDataError(f"{where}: {error.args[0]!r} is missing") from error
    except (TypeError, ValueError) as error:
        raise PaperDataError(f"{where}: {error}") from error
    return PaperSetting(
        group=raw["group"],
        cluster=raw["cluster"],
        problem=problem,
        reference=raw.get("reference", {}),
        model=raw.get("model"),
    )


def _demands(raw: Mapping[str, Any], models: Mapping[str, Any]) -> tuple[Demand, ...]:
    rates = raw.get("estimated_rps") or [None] * len(raw["models"])
    return tuple(
        Demand(model=name, slo_us=int(models[name]["slo_us"]), weight=float(weight), batch_build_rps=rate)
        for name, weight, rate in zip(raw["models"], raw["weights"], rates, strict=True)
    )


def _cluster(raw: Mapping[str, Any]) -> Cluster:
    classes, servers = [], []
    for gpu, count, slices, per_server in zip(
        raw["gpu_types"], raw["gpu_counts"], raw["max_slices_per_gpu"], raw["gpus_per_server"], strict=True
    ):
        classes.append(GpuClass(name=gpu, max_slices_per_gpu=slices))
        for index, first in enumerate(range(0, count, per_server)):
            size = min(per_server, count - first)
            servers.append(Server(f"{gpu.lower()}-{index}", gpu, size, float(raw["bandwidth_gbps"])))
    return Cluster(gpu_classes=tuple(classes), servers=tuple(servers))


def _profile(name: str, raw: Mapping[str, Any], cluster: Cluster) -> ModelProfile:
    tables = tuple(
        _table(gpu_class.name, int(slices), rows)
        for gpu_class in cluster.gpu_classes
        for slices, rows in raw["block_latency_us"].get(gpu_class.name, {}).items()
    )
    return ModelProfile(model=name, cut_bytes=tuple(raw["cut_bytes"]), tables=tables)


def _table(gpu: str, slices: int, rows: list[list[float]]) -> LatencyTable:
    batches = min(len(row) for row in rows)
    return LatencyTable(
        gpu=gpu,
        slices_per_gpu=slices,
        batch_sizes=tuple(range(1, batches + 1)),
        latency_us=tuple(tuple(max(1.0, float(value)) for value in row[:batches]) for row in rows),
    )


def _model_plan(problem: Problem, demand: Demand, pipelines: list[Any], rate: float) -> ModelPlan:
    return ModelPlan(
        model=demand.model,
        slo_us=demand.slo_us,
        slo_margin=margin_of(demand, problem.options),
        pipelines=tuple(_pipeline(problem, demand.model, stages) for stages in pipelines),
        throughput_rps=float(rate),
    )


def _pipeline(problem: Problem, model: str, raw_stages: list[Mapping[str, Any]]) -> Pipeline:
    profile = problem.profile.model(model)
    stages = [
        timed_stage(
            profile,
            BlockRange(raw["blocks"][0], min(raw["blocks"][1], profile.block_count)),
            gpu=raw["gpu"],
            slices_per_gpu=raw["slices_per_gpu"],
            batch_size=raw["batch"],
            workers=raw["workers"],
        )
        for raw in raw_stages
    ]
    return assemble(profile, problem.cluster, stages)
