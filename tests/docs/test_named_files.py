"""Every source that a page names is there: pages follow when a module is moved or renamed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = "launch/"
"""The bundle's folder, which pages name as a cluster sees it."""


def sources() -> list[str]:
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return ["/" + path.relative_to(ROOT).as_posix() for folder in folders for path in folder.rglob("*.py")]


SOURCES = sources()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sources_that_a_page_names_are_there(page: Path) -> None:
    named = re.findall(r"`([\w./-]+\.py)`", page.read_text(encoding="utf-8"))
    missing = {name for name in named if not any(source.endswith("/" + name) for source in SOURCES)}
    assert {name for name in missing if not name.startswith(GENERATED)} == set()
