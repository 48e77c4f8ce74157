"""A plan in words, tables and a picture: what binds, what each price means, who uses what."""

from __future__ import annotations

from planner.latency_sources import estimates_note
from planner.plan import ModelPlan, Plan
from planner.problem import Objective, Problem
from ppipe.plan_lanes import blocks_text, worker_text
from ppipe.report.content import Cell, Section, Table, number, share, table, text
from ppipe.report.flows import draw_flows

BINDS = {
    "gpus": "all GPUs that its pipelines could use are busy",
    "links": "links between servers carry all they can",
    "cores": "cores that prepare frames are all busy",
    "slo": "its SLO leaves only pipelines that cost more",
    "entry link": "the entry server's link carries all it can",
    "client link": "the link to the clients carries all it can",
    "entry cores": "the entry server's cores are all busy",
}
IN_WORDS = 12
"""Of more models than this, the table alone says what binds."""


def plan_section(plan: Plan, problem: Problem | None) -> Section:
    """Everything of a plan.json."""
    tables = [_models(plan), _pipelines(plan), _classes(plan, problem)]
    if plan.entry:
        tables.append(_entry(plan))
    return Section(
        "plan",
        "The plan",
        words=tuple(_words(plan, problem)),
        pictures=(draw_flows(plan),),
        tables=tuple(tables),
    )


def _words(plan: Plan, problem: Problem | None) -> list[str]:
    said = [
        f"Made by {plan.planner}: its objective is {plan.objective:.2f}. No plan of this problem "
        f"is better than {plan.upper_bound:.2f}, so at most {plan.gap:.2%} is left ({plan.solver})."
    ]
    if note := estimates_note(plan.latency_sources):
        said.append(f"Not everything is measured: {note}.")
    for model in plan.models[:IN_WORDS]:
        if model.bound_by:
            why = "; ".join(BINDS.get(one, one) for one in model.bound_by)
            said.append(f"{model.model} gets no more because {why}.")
        if model.note:
            said.append(f"{model.model}: {model.note}.")
    for gpu, why in plan.unusable.items():
        said.append(f"No pipeline can use {gpu}: {why}.")
    if (survival := plan.survival) is not None:
        said.append(
            f"After the worst of {survival.losses} losses ({survival.binding}) it still serves "
            f"{survival.promised:.2f} times the wanted rates; for that it gives up {survival.given_up:.0%}."
        )
    said += [_price_words(plan, problem, gpu) for gpu in list(plan.gpu_price)[:IN_WORDS]]
    return said


def _price_words(plan: Plan, problem: Problem | None, gpu: str) -> str:
    price = plan.gpu_price[gpu]
    if price <= 0:
        return f"One more GPU of {gpu} would add nothing: others bind."
    if problem is not None and problem.options.objective is Objective.MIN_COST:
        return f"One more GPU of {gpu} would save {price:.3g} of the cost."
    of = f", {price / plan.objective:.2%} of it" if plan.objective else ""
    meaning = "" if problem is None else ": so many frames/s more for each unit of every model's weight"
    return f"One more GPU of {gpu} would raise the objective by {price:.3g}{of}{meaning}."


def _models(plan: Plan) -> Table:
    promised = any(model.promise for model in plan.models)
    names = ["model", "planned frames/s", "SLO ms", "margin", "pipelines", "bound by"]
    names += ["guaranteed frames/s", "given up for it"] if promised else []
    rows = []
    for model in plan.models:
        row = [
            text(model.model),
            number(model.throughput_rps),
            number(model.slo_us / 1e3),
            share(model.slo_margin, 0),
            number(len(model.pipelines), 0),
            text(", ".join(model.bound_by) or "–", "; ".join(BINDS.get(one, one) for one in model.bound_by)),
        ]
        if promised:
            promise = model.promise
            row += [
                number(promise.guaranteed_rps if promise else None),
                share(promise.given_up if promise else None, 0),
            ]
        rows.append(row)
    return table("Models", names, rows)


def _pipelines(plan: Plan) -> Table:
    rows = []
    for model in plan.models:
        for place, pipeline in enumerate(model.pipelines):
            stages = "  →  ".join(
                f"{stage.workers}× {worker_text(stage)} {blocks_text(stage)}" for stage in pipeline.stages
            )
            batches = "/".join(map(str, dict.fromkeys(stage.batch_size for stage in pipeline.stages)))
            left_us = model.slo_us - pipeline.latency_us
            rows.append(
                [
                    text(model.model),
                    number(place, 0),
                    text(stages),
                    Cell(batches, pipeline.stages[0].batch_size),
                    number(pipeline.throughput_rps),
                    number(pipeline.latency_us / 1e3),
                    number(left_us / 1e3, hint="of the SLO, for forming batches and waiting"),
                ]
            )
    names = ("model", "pipeline", "stages", "batch", "frames/s", "latency ms", "left of the SLO ms")
    return table("Pipelines", names, rows, keys=2)


def _classes(plan: Plan, problem: Problem | None) -> Table:
    rows = [
        [
            text(gpu),
            number(used, 0),
            share(plan.utilisation.get(gpu, 0.0)),
            number(plan.gpu_price.get(gpu), 4, hint=_price_words(plan, problem, gpu))
            if gpu in plan.gpu_price
            else number(None),
            text(plan.latency_sources.get(gpu, "–")),
        ]
        for gpu, used in plan.gpus_used.items()
    ]
    return table("GPU classes", ("class", "GPUs used", "busy", "price of one more", "latencies"), rows)


def _entry(plan: Plan) -> Table:
    rows = [
        [
            text(use.resource),
            number(use.capacity, 0, f" {use.unit}"),
            share(use.usable),
            share(use.busy),
            number(use.price, 4),
        ]
        for use in plan.entry
    ]
    return table("Entry server", ("resource", "there", "usable", "busy", "price of one more"), rows)


def planned_parts_us(model: ModelPlan) -> list[tuple[str, list[tuple[str, float]]]]:
    """Per pipeline its name and, part by part in order, what of the SLO a full batch takes."""
    found = []
    for place, pipeline in enumerate(model.pipelines):
        parts: list[tuple[str, float]] = []
        if pipeline.ends is not None:
            parts += [("way in", pipeline.ends.ingress_us), ("prepare", pipeline.ends.prepare_us)]
        for number_, stage in enumerate(pipeline.stages, start=1):
            if number_ > 1:
                parts.append((f"hop to stage {number_}", pipeline.transfer_us[number_ - 2]))
            parts.append((f"stage {number_}", stage.latency_us))
        if pipeline.ends is not None:
            parts.append(("way out", pipeline.ends.finish_us + pipeline.ends.egress_us))
        found.append((f"{model.model}, pipeline {place}, planned", parts))
    return found
