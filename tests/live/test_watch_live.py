"""`ppipe watch` as its user runs it, on a real deployment: clips, pictures and streams, good ones and bad."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from benchmarks.helpers.loads.clips import draw_clip
from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage
from planner.profile import TensorSpec
from ppipe.bench.frames import encode_jpeg, make_pictures
from ppipe.serving.launcher import ServedDeployment
from tests.ensembles.recipes import recipe
from tests.fixtures.camera import camera_of
from tests.live.data_plane_client import served
from tests.waiting import wait_for

pytestmark = [pytest.mark.live, pytest.mark.unhurried]

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("watch")


@pytest.fixture(scope="module")
def deployment(root: Path) -> Iterator[ServedDeployment]:
    """Two emulated workers behind a door for image files, and two behind one for pixels."""
    models = [
        EmulatedModel(
            name=kind,
            slo_us=20_000_000,
            planned_rps=200.0,
            input=TensorSpec("image", "FP32", (3, 32, 32)),
            pipelines=(
                EmulatedPipeline(
                    4,
                    (
                        EmulatedStage(
                            (2_000, 3_000, 4_000, 5_000), ("a", "a"), (TensorSpec("scores", "FP32", (16,)),)
                        ),
                    ),
                ),
            ),
            prepare=recipe((3, 32, 32), kind=kind, frame={"width": 320, "height": 240}),
        )
        for kind in ("jpeg", "raw")
    ]
    with served(root, *models) as deployment:
        yield deployment


def command(deployment: ServedDeployment, *arguments: object) -> list[str]:
    url = deployment.manifest.entry.grpc_address
    return [sys.executable, "-m", "ppipe", "watch", "--url", url, *map(str, arguments)]


def lines_of(path: Path) -> dict[str, list[dict[str, object]]]:
    """Per stream, in the order of places."""
    streams: dict[str, list[dict[str, object]]] = {}
    for line in path.read_text().splitlines():
        found = json.loads(line)
        streams.setdefault(found["stream"], []).append(found)
    return {name: sorted(each, key=lambda line: line["place"]) for name, each in streams.items()}


def test_good_sources_go_on_beside_bad_ones(deployment: ServedDeployment, tmp_path: Path) -> None:
    north, south = (draw_clip(tmp_path / f"{name}.mp4", seed=n) for n, name in enumerate(("north", "south")))
    stills = tmp_path / "stills"
    stills.mkdir()
    for number, picture in enumerate(make_pictures(4, seed=1)):
        (stills / f"{number}.jpg").write_bytes(encode_jpeg(picture))
    unknown = tmp_path / "codec.avi"
    unknown.write_bytes(draw_clip(unknown, codec="mpeg4").read_bytes().replace(b"FMP4", b"ZZQZ"))
    garbage = tmp_path / "garbage.mp4"
    garbage.write_bytes(b"nothing of a video" * 50)
    results, clips = tmp_path / "results.jsonl", tmp_path / "annotated"
    sources = (north, south, stills, unknown, garbage, tmp_path / "missing.mp4")
    options = ("--model", "jpeg", "--policy", "follow", "--json", results, "--annotate", clips)
    done = subprocess.run(
        command(deployment, *sources, *options), capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1, done.stderr
    for name, said in (("codec", "no decoder"), ("garbage", "no video that"), ("missing", "No such file")):
        assert any(name in line and said in line for line in _unwrapped(done.stderr)), done.stderr
    found = lines_of(results)
    assert {name: len(each) for name, each in found.items()} == {"north": 20, "south": 20, "stills": 4}
    for lines in found.values():
        assert [line["place"] for line in lines] == list(range(len(lines)))
        assert [line["pts"] for line in lines] == pytest.approx([n / 10 for n in range(len(lines))])
        assert all(len(line["answer"]["scores"]) == 16 for line in lines)
    for name, frames in (("north", 20), ("stills", 4)):
        with av.open(str(clips / f"{name}.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == frames


def _unwrapped(text: str) -> list[str]:
    """Lines that a table's width broke, as one."""
    return [text.replace("\n", "")]


def test_pixels_go_to_a_model_that_takes_them(deployment: ServedDeployment, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    clip = draw_clip(tmp_path / "a.mp4", seconds=1.0)
    options = ("--model", "raw", "--policy", "follow", "--fps", "5", "--json", results)
    done = subprocess.run(
        command(deployment, clip, *options), capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert [line["pts"] for line in lines_of(results)["a"]] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


@pytest.mark.usefixtures("deployment")
def test_a_wrong_model_is_named(root: Path, tmp_path: Path) -> None:
    clip = draw_clip(tmp_path / "a.mp4", seconds=0.2)
    repository = root / "repository"
    wrong = [sys.executable, "-m", "ppipe", "watch", clip, "--deployment", repository, "--model", "nobody"]
    done = subprocess.run(wrong, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1
    assert "--model nobody" in done.stderr
    assert "served are jpeg, raw" in done.stderr


def test_a_camera_that_breaks_off_is_watched_again_until_ctrl_c(
    deployment: ServedDeployment, tmp_path: Path
) -> None:
    stream = draw_clip(tmp_path / "camera.ts", seconds=1.0).read_bytes()
    results = tmp_path / "results.jsonl"
    with camera_of(stream) as camera:
        source = f"gate={camera.address}"
        options = ("--model", "jpeg", "--json", results)
        with subprocess.Popen(
            command(deployment, source, *options), stderr=subprocess.PIPE, text=True
        ) as process:
            wait_for(lambda: watched_again(results))
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + signal.SIGINT, said
    assert "Traceback" not in said
    assert camera.passes >= 2
    places = [line["place"] for line in lines_of(results)["gate"]]
    assert len(set(places)) == len(places), "places go on after a break"


def watched_again(results: Path) -> bool:
    """Whether there is an answer to a frame of a second pass: a pass is a second long, and times go on."""
    text = results.read_text() if results.exists() else ""
    found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
    return any(line["pts"] > 1.0 for line in found)
