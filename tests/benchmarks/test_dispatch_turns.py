"""Two checkouts' dispatchers side by side: what is asked of each, in which order, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import dispatch_turns
from benchmarks.dispatch_turns import KINDS, Stand, StandFailed, run

ROOT = Path(__file__).resolve().parents[2]
STAND = """
import json, pathlib, sys
latency_us = json.loads(sys.stdin.readline())["latency_us"]
print("ready", flush=True)
for line in sys.stdin:
    with pathlib.Path({log!r}).open("a") as file:
        file.write({name!r} + " " + line)
    cpu_us = latency_us["64b"] * {cost}
    print(json.dumps({{"cpu_us": cpu_us, "parts": {{"stub": cpu_us}}, "rps": 1}}), flush=True)
"""


def checkout(folder: Path) -> Path:
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Two checkouts whose servers are scripts; `today` is a line that today's run before each window. Returns
    the older one, the log of what is asked of them, and that of looks at the bare model.
    """
    base, after, log = checkout(tmp_path / "before"), checkout(tmp_path / "after"), tmp_path / "log"
    looks = tmp_path / "looks"

    def look(root: Path) -> Mapping[str, int]:
        with looks.open("a") as file:
            file.write(f"{root}\n")
        return {"64b": 100, "600kb": 200}

    def set_up(today: str = "pass") -> list[str]:
        class Scripted(Stand):
            def __init__(self, folder: Path, asked: Mapping[str, Any]) -> None:
                is_today = folder == after
                text = STAND.format(log=str(log), name=folder.name[0], cost=1 if is_today else 2)
                script = tmp_path / f"{folder.name}.py"
                script.write_text(text.replace("    with", f"    {today if is_today else 'pass'}\n    with"))
                monkeypatch.setattr(dispatch_turns, "_STAND", script)
                super().__init__(folder, asked)

        monkeypatch.setattr(dispatch_turns, "_ROOT", after)
        monkeypatch.setattr(dispatch_turns, "look_at_bare", look)
        monkeypatch.setattr(dispatch_turns, "Stand", Scripted)
        return [str(base), str(log), str(looks)]

    return set_up


def test_windows_go_to_both_in_turn_with_pools_of_one_speed(
    scripted: Callable[..., list[str]],
) -> None:
    base, log, looks = scripted()
    found: Mapping[str, Any] = json.loads(json.dumps(run(base, turns=2, window=0.5)))
    assert len(Path(looks).read_text().splitlines()) == 1
    asked = Path(log).read_text().split("\n")[:-1]
    each_turn = 2 * len(KINDS)
    whose = "".join(line[0] for line in asked)
    assert whose == "ba" * each_turn + "ab" * each_turn + "ba" * each_turn
    assert asked[:2] == ["b 64b hop 4000", "a 64b hop 4000"]
    told = found["cpu_us_per_frame_64b.hop"]
    assert (told["turns"], told["before"], told["after"], told["ratio"]) == (2, 200, 100, 0.5)
    assert (told["parts_before"], told["parts_after"]) == ({"stub": 200}, {"stub": 100})
    assert found["failed"] == []


def test_a_start_whose_servers_fail_is_begun_anew_and_told_of(
    scripted: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Hours of windows are not lost with it."""
    once = tmp_path / "once"
    fails_once = f"p = pathlib.Path({str(once)!r}); p.exists() or (p.touch(), sys.exit())"
    base, *_ = scripted(fails_once)
    found = run(base, turns=4, starts=2)
    (failed,) = found["failed"]
    assert str(tmp_path / "after") in failed
    assert found["cpu_us_per_frame_600kb.null"]["turns"] == 4
    base, *_ = scripted("sys.exit()")
    with pytest.raises(StandFailed):
        run(base, turns=4, starts=2)


def test_a_checkout_whose_servers_do_not_start_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "stand.py"
    script.write_text("raise SystemExit('no server')")
    monkeypatch.setattr(dispatch_turns, "_STAND", script)
    with pytest.raises(StandFailed, match=f"the servers of {tmp_path / 'before'} ended"):
        Stand(checkout(tmp_path / "before"), {"64b": 1})


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a folder with a checkout"):
        run(str(tmp_path))
    with pytest.raises(ValueError, match="--turns 1"):
        run(str(checkout(tmp_path / "before")), turns=1)
