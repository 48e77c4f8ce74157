"""Every command of the README's and the docs' ```sh blocks runs, in order, as a reader would run it.

Left out are those that run this very suite, or that a live test runs by itself; a command that is in neither
group is run, so a new one can't be forgotten.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ppipe.serving.ports import free_base
from tests.docs.example_fleet import assert_fleet_is_sound
from tests.docs.test_pictures import assert_fleet_is_current

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN_ELSEWHERE = {
    "scripts/test": "this suite",
    "scripts/demo": "tests/live/test_demo_live.py",
    **dict.fromkeys(
        (
            "ppipe rollout deployment.yaml --plan other.json --dry-run",
            "ppipe rollout deployment.yaml --plan other.json",
            "ppipe rollout deployment.yaml",
            "ppipe rollout deployment.yaml --to 1",
            "ppipe history deployment.yaml",
            "ppipe operate deployment.yaml --advise --seconds 2",
            "ppipe operate deployment.yaml",
        ),
        "tests/live/test_rollout_live.py",
    ),
    ". .venv/bin/activate": "the environment of this test",
}
NEEDS_PAPER = "--data DIR"
READY = "Ctrl-C stops it"
START_SECONDS = 600.0


def commands(page: Path) -> list[str]:
    """The lines of all ```sh blocks of a page, comments removed."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s+#.*$", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_the_readme_names_the_two_commands_and_the_steps() -> None:
    found = commands(ROOT / "README.md")
    assert {"scripts/demo", "scripts/test"} <= set(found)
    assert {line.split()[1] for line in found if line.startswith("ppipe ")} >= {
        "profile", "plan", "simulate", "generate", "lint", "serve", "bench",
    }  # fmt: skip


def test_the_readme_is_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_of_a_page_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone to a reader's commands, and keeps what they write out of this one."""
    folder = tmp_path_factory.mktemp("reader")
    for name in ("docs", "scripts", ".venv"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "ensembles", folder / "ensembles")
    for file in (folder / "ensembles" / "examples").glob("*.yaml"):
        # The only difference to a reader's copy: ports that nothing else here has taken.
        base_port = free_base(first=23_000, count=100)
        text = re.sub(
            r"^  base_port: \d+$", f"  base_port: {base_port}", file.read_text(), flags=re.MULTILINE
        )
        file.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.live
@pytest.mark.unhurried
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_of_a_page_run(page: Path, reader: Path) -> None:
    pending = [line for line in commands(page) if line not in RUN_ELSEWHERE]
    while pending:
        line = pending.pop(0)
        if NEEDS_PAPER in line:
            continue  # its own test skips with a message where the data is absent
        if line.startswith("ppipe serve"):
            with served(line, reader):
                while pending and example_of(line) in pending[0]:
                    run(pending.pop(0), reader)
        else:
            run(line, reader)
    if page.name == "README.md":
        assert_fleet_is_current(reader)
        assert_fleet_is_sound(reader)


def example_of(line: str) -> str:
    """The example that a command is about: 'demo' of ensembles/examples/demo.yaml or .ppipe/demo/x."""
    (found,) = re.findall(r"ensembles/examples/([\w-]+)\.yaml|\.ppipe/([\w-]+)/", line)
    return "".join(found)


def environment() -> dict[str, str]:
    """With the programs of the environment that runs this test first on PATH."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(line: str, folder: Path) -> None:
    """Run one command; its output is the message if it fails."""
    done = subprocess.run(
        ["bash", "-euc", line],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@contextmanager
def served(line: str, folder: Path) -> Iterator[None]:
    """Start `ppipe serve`, wait until it says that it serves, and end it as Ctrl-C does."""
    log = folder / "serve.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            shlex.split(line), cwd=folder, env=environment(), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while READY not in log.read_text(encoding="utf-8"):
            assert process.poll() is None, log.read_text(encoding="utf-8")[-4000:]
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")[-4000:]
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
