"""docs/metrics.md names all that dispatchers and cascades export, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from python_backend.cascade import page
from python_backend.dispatcher.metrics import prometheus

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_every_metric_is_told_with_its_type_and_what_it_is() -> None:
    rows = re.findall(
        r"^\| `(ppipe_\w+)` \| (\w+) \| [^|]*\| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    exported = [
        (f"{prefix}{name}", kind, text)
        for prefix, families in (
            (prometheus.PREFIX, prometheus.families()),
            (page.PREFIX, page.cascade_families()),
        )
        for name, kind, text in families
    ]
    assert sorted(rows) == sorted(exported)
