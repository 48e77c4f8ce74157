"""From files to a page, and from a page to HTML.

Rules
- One file: style and script are inside, data is embedded once as JSON, nothing is fetched.
- Jinja2 escapes every text, and tojson what goes into the script element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ppipe.report.compare import differences
from ppipe.report.content import Label, Page, Rect, Section, Subject
from ppipe.report.fleet_sections import cascades_section, entries_section
from ppipe.report.gantt import charts_of
from ppipe.report.history_sections import history_section
from ppipe.report.materials import Material, gather
from ppipe.report.plan_sections import plan_section
from ppipe.report.profile_sections import profile_section
from ppipe.report.repository_sections import repository_section
from ppipe.report.run_sections import attainment_section, budget_section, latency_section
from ppipe.report.stream_sections import streams_section


def page_of(lots: Sequence[Material], title: str = "") -> Page:
    """The page about one lot, or two side by side."""
    charts: list[Mapping[str, object]] = []
    subjects = []
    runs = sum(len(lot.runs) for lot in lots)
    for lot in lots:
        mine = charts_of(lot.runs, lot.label, runs)
        places = tuple(range(len(charts), len(charts) + len(mine)))
        charts += mine
        subjects.append(Subject(lot.label, tuple(_sections(lot, places)), tuple(lot.missing)))
    changed = differences(*subjects) if len(subjects) == 2 else []
    name = title or " and ".join(_name(lot) for lot in lots)
    return Page(name, tuple(subjects), tuple(changed), tuple(charts))


def _name(lot: Material) -> str:
    if lot.deployment is not None:
        return lot.deployment.name
    return lot.manifest.deployment if lot.manifest is not None else lot.label


def _sections(lot: Material, charts: tuple[int, ...]) -> list[Section]:
    found: list[Section | None] = []
    if lot.plan is not None:
        found.append(plan_section(lot.plan, lot.problem))
        found += [cascades_section(lot.plan), entries_section(lot.plan)]
    found += [attainment_section(lot), budget_section(lot), latency_section(lot), streams_section(lot.runs)]
    if charts:
        words = (
            "Click a bar to see its frames. Drag to move, wheel or + and − to zoom, arrow keys to move. "
            "A thin bar is a transfer, a cross is a drop.",
        )
        found.append(Section("gantt", "Who did what when", words, charts=charts))
    if lot.profile is not None:
        found.append(profile_section(lot.profile))
    if lot.manifest is not None:
        found.append(repository_section(lot.manifest, lot.plan))
    if lot.history:
        found.append(history_section(lot.history))
    return [section for section in found if section is not None]


def render(page: Page) -> str:
    """The HTML file's text."""
    style, script = _own("pictures.css") + _own("report.css"), _own("report.js")
    return _environment().get_template("report.html.j2").render(page=page, style=style, script=script)


def render_pictures(page: Page) -> dict[str, str]:
    """{file name: SVG} of every picture of the page but the Gantt charts, which are made in the browser.

    A file has its section's name, a number from the second picture on, and of two subjects a letter.
    """
    template, style = _environment().get_template("picture.svg.j2"), _own("pictures.css")
    found: dict[str, str] = {}
    for letter, subject in zip("ab", page.subjects, strict=False):
        side = f"{letter}-" if len(page.subjects) == 2 else ""
        for section in subject.sections:
            for number, picture in enumerate(section.pictures, start=1):
                which = f"-{number}" if number > 1 else ""
                found[f"{side}{section.kind}{which}.svg"] = template.render(one=picture, style=style)
    return found


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("ppipe.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.tests["rect"] = lambda shape: isinstance(shape, Rect)
    made.tests["label"] = lambda shape: isinstance(shape, Label)
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "sort_keys": False}
    return made


def _own(name: str) -> Markup:
    """A file of ours, which is no text of a user's."""
    return Markup((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8"))


def make_report(paths: Sequence[Path], output: Path, title: str = "", pictures: Path | None = None) -> Page:
    """Gather, render, write; the pictures by themselves into a folder, too, where one is given.

    Raises ReportError, and what reading and writing files raise.
    """
    page = page_of(gather(paths), title)
    texts = {output: render(page)}
    if pictures is not None:
        texts |= {pictures / name: text for name, text in render_pictures(page).items()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return page
