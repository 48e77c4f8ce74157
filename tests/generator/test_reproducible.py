"""The same deployment, profile and plan give the same bytes, whatever else is different where it runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_repo_generator.writing.write import LISTING
from planner import serial
from planner.plan import Plan
from planner.profile import Profile

ROOT = Path(__file__).parents[2]
PROGRAM = "import sys, os; os.umask(int(sys.argv.pop(1), 8)); from ppipe.cli import main; main()"
SURROUNDINGS = (
    {"PYTHONHASHSEED": "1", "LC_ALL": "C", "TZ": "UTC", "umask": "022"},
    {"PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo", "umask": "077", "PYTHONUTF8": "1"},
)


@pytest.mark.parametrize("option", [[], ["--self-contained"], ["--one-folder"], ["--rehearse", "emulated"]])
def test_two_machines_give_the_same_listing(
    option: list[str], data: dict[str, Any], profile: Profile, plan: Plan, tmp_path: Path
) -> None:
    """The listing has the hash of each file. Labels are not ASCII, so that a locale could show."""
    data["models"][0]["postprocess"]["labels"] = "labels.txt"
    listings = []
    for index, given in enumerate(SURROUNDINGS):
        home = tmp_path / f"machine {index}"
        (home / "work").mkdir(parents=True)
        (home / "labels.txt").write_text("één\nΔύο\n三\nfour\n5\n", encoding="utf-8")
        (home / "street.yaml").write_text(yaml.safe_dump(data))
        (home / "work" / "profile.json").write_text(serial.dumps(profile), encoding="utf-8")
        (home / "work" / "plan.json").write_text(serial.dumps(plan), encoding="utf-8")
        generate(home, given, option)
        (out,) = (path.parent for path in (home / "work").rglob(LISTING))
        listings.append((out / LISTING).read_bytes())
    assert listings[0] == listings[1]
    assert b"labels/" in listings[0]


def generate(home: Path, surroundings: dict[str, str], option: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    environment |= {name: value for name, value in surroundings.items() if name != "umask"}
    environment["PYTHONPATH"] = str(ROOT)
    command = ["generate", str(home / "street.yaml"), "--work", str(home / "work"), "--no-programs", *option]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, surroundings["umask"], *command],
        cwd=home, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
