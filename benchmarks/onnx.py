"""Every network of the zoo as an ONNX file: exported by torch.onnx, split, its answers and times compared.

For each network: torch.onnx (dynamo) makes a file; it is split as for a deployment; the stages one after
another are compared with the unsplit file in plain onnxruntime, on batches of 1, 2 and 8, as a share of the
output's range; and processor time of one thread is taken, of each stage by itself, of the unsplit file, and
of the unsplit network in torch's executor. A stage is timed as it is served, in a worker of its own: it runs
again and again before the next one does. Figures are medians.

Frames are small ones (helpers.networks.zoo_check) unless --full: the networks' own take hours on one core.
--kept FILE goes on where a run was cut short. Exporting takes longest, is not timed, and may be done before:
--files FOLDER --export. In place of all that, --stubs compares what stubs of both kinds cost before their
first batch, and --serve sends frames to PP-OCR's text detection on tritonservers here.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.helpers.kept import Kept
from benchmarks.helpers.networks.onnx_served import served
from benchmarks.helpers.networks.onnx_stubs import stubs
from benchmarks.helpers.networks.onnx_zoo import exported, row_of
from benchmarks.helpers.networks.zoo_check import checked_frame
from ensembles.zoo.catalogue import ZOO, entry


@dataclass(frozen=True)
class How:
    """full: the networks' own frames. answers: no times. files: where exported files are kept."""

    full: bool = False
    answers: bool = False
    files: Path | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line per network; the last line is JSON with --json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="a JSON list as the last line")
    parser.add_argument("--models", default="", help="names of some networks, with commas; default: all")
    parser.add_argument("--full", action="store_true", help="the networks' own frames")
    parser.add_argument("--kept", type=Path, help="file of results, to go on from")
    parser.add_argument("--answers", action="store_true", help="compare answers and time nothing")
    parser.add_argument("--files", type=Path, help="folder of exported files: used if there, else made")
    parser.add_argument("--export", action="store_true", help="export into --files, and nothing else")
    parser.add_argument("--serve", type=int, metavar="FRAMES", help="serve PP-OCR's detector, only")
    parser.add_argument("--stubs", action="store_true", help="what stubs of both kinds cost, only")
    chosen = parser.parse_args(arguments)
    if chosen.serve:
        print(json.dumps(served(chosen.serve)))
        return
    if chosen.stubs:
        print(json.dumps(stubs()))
        return
    names = chosen.models.split(",") if chosen.models else [each.name for each in ZOO]
    if chosen.export:
        export_all(names, chosen.full, chosen.files or parser.error("--export needs --files"))
        return
    how = How(full=chosen.full, answers=chosen.answers, files=chosen.files)
    rows = list(run(names, how, kept=chosen.kept))
    print(f"{len(rows)} networks; {_worst(rows)}")
    if chosen.json:
        print(json.dumps(rows))


def export_all(names: Sequence[str], full: bool, files: Path) -> None:
    """The files alone: what takes longest, and is not timed."""
    for name in names:
        each = entry(name)
        print(f"{name}: {exported(each, checked_frame(each, full=full), files):.0f} s", flush=True)


def run(names: Sequence[str], how: How, kept: Path | None = None) -> list[Mapping[str, Any]]:
    """A row for each network, each made in a process of its own, which gives its memory back."""
    results = Kept(kept, {"full": how.full, **({"answers": True} if how.answers else {})})
    context = multiprocessing.get_context("spawn")
    for name in names:
        if name not in results:
            with ProcessPoolExecutor(1, mp_context=context) as process:
                results.add(name, process.submit(measured, name, how).result())
        print(_line(results[name]), flush=True)
    return [results[name] for name in names]


def measured(name: str, how: How) -> Mapping[str, Any]:
    """One network's row."""
    each = entry(name)
    frame = checked_frame(each, full=how.full)
    with tempfile.TemporaryDirectory(prefix="ppipe-onnx-") as folder:
        return row_of(each, frame, how.files or Path(folder), timed=not how.answers)


def _worst(rows: Sequence[Mapping[str, Any]]) -> str:
    error = max(row["max_rel_error"] for row in rows)
    ratios = [row["stages_over_unsplit"] for row in rows if "stages_over_unsplit" in row]
    timed = f"; stages over unsplit: at most {max(ratios):.3f}" if ratios else "; not timed"
    return f"split against unsplit: at most {error:.1e}{timed}"


def _line(row: Mapping[str, Any]) -> str:
    frame = "x".join(map(str, row["frame"][1:]))
    timed = (
        f"stages over unsplit {row['stages_over_unsplit']:.3f}, unsplit over torch "
        f"{row['unsplit_over_torch']:.2f}"
        if "stages_over_unsplit" in row
        else "not timed"
    )
    return (
        f"{row['model']:18s} {row['blocks']:3d} blocks on {frame}: split against unsplit "
        f"{row['max_rel_error']:.1e}; {timed}; exported in {row['export_s']:.0f} s"
    )


if __name__ == "__main__":
    main()
