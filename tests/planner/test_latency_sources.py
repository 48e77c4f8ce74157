"""Where latencies come from is said of each class, in plan, table and picture."""

from __future__ import annotations

from rich.console import Console

from planner.latency_sources import estimates_note, latency_sources
from planner.plan import Plan
from planner.profile import LatencyTable, ModelProfile, Profile, Source
from ppipe.plan_view import draw_plan, plan_table


def table(gpu, source, error=None):
    return LatencyTable(
        gpu=gpu,
        slices_per_gpu=1,
        batch_sizes=(1,),
        latency_us=((1.0,),),
        source=source,
        expected_error=error,
    )


def profile(**models):
    return Profile(
        models=tuple(ModelProfile(model=name, cut_bytes=(), tables=tables) for name, tables in models.items())
    )


def plan(sources):
    return Plan(
        planner="ppipe",
        objective=1.0,
        upper_bound=1.0,
        gap=0.0,
        solver="none",
        models=(),
        gpus_used=dict.fromkeys(sources, 1),
        latency_sources=sources,
    )


def test_every_class_has_its_sources_and_the_largest_expected_error():
    found = latency_sources(
        profile(
            cars=(table("L4", Source.MEASURED), table("T4", Source.ESTIMATED, 0.2)),
            faces=(table("L4", Source.ESTIMATED, 0.2), table("T4", Source.ESTIMATED, 0.4)),
        ),
        ["L4", "T4", "H100"],
    )
    assert found == {"L4": "measured; estimated, +-20%", "T4": "estimated, +-40%"}


def test_only_estimates_make_a_note():
    assert estimates_note({"L4": "measured", "T4": "estimated, +-20%"}) == "latencies: T4 estimated, +-20%"
    assert estimates_note({"L4": "measured", "T4": "stated"}) == ""


def test_table_and_picture_say_so(tmp_path):
    made = plan({"L4": "measured", "T4": "estimated, +-20%"})
    console = Console(width=120, record=True, file=(tmp_path / "out.txt").open("w"))
    console.print(plan_table(made))
    shown = console.export_text()
    console.file.close()
    assert "latencies: T4 estimated, +-20%" in shown
    draw_plan(made, tmp_path / "plan.svg")
    assert "latencies estimated, +-20%" in (tmp_path / "plan.svg").read_text()
