"""report: what is at hand of a deployment as one page that opens anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ppipe.commands.arguments import require_suffix
from ppipe.console import err, out


def report(
    what: Annotated[
        list[Path],
        typer.Argument(
            help="A working folder, or files: deployment, profile, plan, simulation, event log, bench. "
            "Two folders, or two files of a kind, are compared.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Of the page.", show_default="the deployment's name")] = "",
    pictures: Annotated[
        Path | None, typer.Option(help="Also write each picture as an SVG file into this folder.")
    ] = None,
) -> None:
    """Make one HTML file of a plan and its runs: pictures, sortable tables, a Gantt chart; no network."""
    from ppipe.report.page import make_report

    require_suffix("--output", output, ".html")
    page = make_report(what, output, title, pictures)
    for subject in page.subjects:
        kinds = ", ".join(section.title for section in subject.sections)
        err.print(f"{subject.label}: {kinds}", markup=False, soft_wrap=True)
        for line in subject.missing:
            err.print(f"  not there: {line}", markup=False, soft_wrap=True)
    out.print(str(output), markup=False, soft_wrap=True)
