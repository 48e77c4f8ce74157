"""The pictures of the docs are what `scripts/benchmarks pictures` makes today.

Of the example fleet, whose plan takes a solver half a minute, test_commands.py compares what README's
commands have just made with what is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import pictures
from planner import serial
from ppipe.cli import app
from ppipe.report.page import _own
from ppipe.simulation.curve import AttainmentCurve
from ppipe.simulation.pictures import draw_attainment

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
HINT = "scripts/benchmarks pictures makes it anew"
_NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")
_DRAWN = ("d", "x", "y", "width", "height", "transform")


def drawn(svg: str) -> Iterator[tuple[str, str, list[float]]]:
    """What is seen, one after the other: element and words, its text, its numbers."""
    for each in ElementTree.fromstring(svg).iter():
        tag = each.tag.rpartition("}")[2]
        if tag in ("path", "rect", "text", "use", "g"):
            text = " ".join(each.attrib.get(name, "") for name in _DRAWN)
            yield (
                tag + _NUMBER.sub("", text),
                (each.text or "").strip(),
                list(map(float, _NUMBER.findall(text))),
            )


def assert_alike(made: str, kept: str) -> None:
    """But for what another machine rounds otherwise."""
    left, right = list(drawn(made)), list(drawn(kept))
    assert [each[:2] for each in left] == [each[:2] for each in right], HINT
    for (*_, ours), (*_, theirs) in zip(left, right, strict=True):
        assert ours == pytest.approx(theirs, rel=0.01, abs=1.0), HINT


def kept(name: str) -> str:
    return (IMAGES / name).read_text(encoding="utf-8")


def test_every_picture_is_shown_and_made_by_the_command() -> None:
    made = {pictures.PLAN, pictures.GANTT, pictures.ATTAINMENT, *pictures.OF_REPORT}
    assert {path.name for path in IMAGES.iterdir()} == made | {pictures.BY_HAND}
    pages = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))
    )
    assert {name for name in made if f"images/{name})" not in pages} == set()
    assert "scripts/benchmarks pictures" in pages


def test_the_gantt_chart_of_the_scheduler_is_current(tmp_path: Path) -> None:
    pictures.draw_the_gantt(tmp_path / "gantt.svg")
    assert_alike((tmp_path / "gantt.svg").read_text(encoding="utf-8"), kept(pictures.GANTT))


def test_the_attainment_of_the_scheduler_is_current(tmp_path: Path) -> None:
    """Drawn as today from the curve that it holds; and of the curve, two loads are simulated again."""
    text = kept(pictures.ATTAINMENT)
    (description,) = ElementTree.fromstring(text).iter("{http://purl.org/dc/elements/1.1/}description")
    curve = serial.loads(AttainmentCurve, description.text or "")
    curve = replace(curve, lines={policy: curve.lines[policy] for policy in pictures.POLICIES})
    draw_attainment(curve, tmp_path / "curve.svg")
    assert_alike((tmp_path / "curve.svg").read_text(encoding="utf-8"), text)
    assert tuple(curve.load_factors) == pytest.approx(pictures.LOADS)
    places = (6, 11)
    again = pictures.the_curve([pictures.LOADS[place] for place in places])
    for policy, line in again.lines.items():
        then = [curve.lines[policy][place] for place in places]
        assert line == pytest.approx(then, abs=0.01), f"{policy}: {HINT}"


def test_the_pictures_of_the_report_stand_in_the_page() -> None:
    page = (ROOT / "docs" / pictures.REPORT).read_text(encoding="utf-8")
    for name in pictures.OF_REPORT:
        shapes = re.search(r"</style>\n(.*)</svg>", kept(name), re.DOTALL)
        assert shapes, name
        assert shapes[1] in page, f"{name}: {HINT}"
        assert _own("pictures.css") in kept(name), f"{name}: {HINT}"
    for part in ("pictures.css", "report.css", "report.js"):
        assert _own(part) in page, f"{pictures.REPORT}: {HINT}"


def skeleton(page: str) -> list[str]:
    """Headings, captions and columns of a page, without figures; and the bound that its plan proves."""
    parts = re.findall(r"<h2>[^<]*</h2>|<figcaption>[^<]*|<caption>[^<]*|<th [^>]*><button[^>]*>[^<]*", page)
    return list(dict.fromkeys(parts))


def assert_fleet_is_current(folder: Path) -> None:
    """What README's commands have made there, or another plan of the same worth, is what is kept."""
    made = (folder / "fleet.html").read_text(encoding="utf-8")
    page = (ROOT / "docs" / pictures.REPORT).read_text(encoding="utf-8")
    assert skeleton(made) == skeleton(page), HINT
    worths = [
        re.search(r"objective ([\d.]+), at most ([\d.]+)", text)
        for text in ((folder / "plan.svg").read_text(encoding="utf-8"), kept(pictures.PLAN))
    ]
    ours, theirs = (tuple(map(float, found.groups())) for found in worths if found)
    assert ours == pytest.approx(theirs, rel=1e-3), HINT


def test_the_picture_drawn_by_hand_names_commands_that_exist() -> None:
    named = set(re.findall(r"\bppipe ([a-z]+)", kept(pictures.BY_HAND)))
    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert named
    assert named <= known


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*") if path.is_file())],
    ids=lambda page: page.name,
)
def test_no_page_or_picture_names_a_folder_of_the_machine_that_made_it(page: Path) -> None:
    assert re.findall(r"/(?:tmp|root|work|home)/[\w./-]+", page.read_text(encoding="utf-8")) == []
