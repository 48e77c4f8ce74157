"""What `ppipe watch` is made of, without a server: sources, times, room, lines, drawings, clips."""

from __future__ import annotations

import json
import queue
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks.helpers.loads.clips import HEIGHT, WIDTH, draw_clip
from ppipe.watch.asking import ShotFate, ShotResult
from ppipe.watch.clips import Clip
from ppipe.watch.drawing import annotated, said_of_rows
from ppipe.watch.feed import Feed, Shot
from ppipe.watch.pacing import SendPolicy, Thinning
from ppipe.watch.reading import SourceError, SourcePicture, pictures
from ppipe.watch.results import line_of
from ppipe.watch.sources import Kind, WatchError, WatchSource, parse_sources
from tests.fixtures.camera import camera_of

PATIENCE_S = 60.0


def test_sources_have_names_kinds_and_rates(tmp_path: Path) -> None:
    odd = tmp_path / "a=b.mp4"
    odd.touch()
    texts = [
        "gate=rtsp://user:secret@10.0.0.9/live?x=1",
        "http://10.0.0.9/v.mp4?id=7",
        str(tmp_path),
        str(odd),
        "clips/one.mp4",
        "other/one.mp4",
        "/dev/video0",
    ]
    found = parse_sources(texts, ["5", "gate=2.5"])
    assert [source.stream for source in found] == [
        "gate", "10.0.0.9", tmp_path.name.strip("-._")[:60], "a-b", "one", "one-2", "video0",
    ]  # fmt: skip
    assert [source.kind for source in found] == [
        Kind.NETWORK, Kind.NETWORK, Kind.PICTURES, Kind.FILE, Kind.FILE, Kind.FILE, Kind.WEBCAM,
    ]  # fmt: skip
    assert [source.fps for source in found] == [2.5, *[5.0] * 6]
    assert found[0].shown == "rtsp://10.0.0.9/live?x=1"


@pytest.mark.parametrize(
    ("texts", "rates", "said"),
    [
        (["a=x.mp4", "a=y.mp4"], [], "the name 'a' is used more than once"),
        (["-a=x.mp4"], [], "expected up to 64 letters"),
        (["a" * 65 + "=x.mp4"], [], "expected up to 64 letters"),
        (["a=x.mp4"], ["b=3"], "no stream has that name; there are a"),
        (["a=x.mp4"], ["0"], "expected frames/s above 0"),
        (["a=x.mp4"], ["fast"], "expected frames/s above 0"),
    ],
)
def test_wrong_sources_and_rates_are_named(texts: list[str], rates: list[str], said: str) -> None:
    with pytest.raises(WatchError, match=said):
        parse_sources(texts, rates)


@given(source=st.integers(1, 120), wanted=st.integers(1, 120))
def test_thinning_sends_the_wanted_rate_or_the_sources(source: int, wanted: int) -> None:
    thinning = Thinning(float(wanted))
    kept = [n / source for n in range(10 * source) if thinning.keeps(n / source)]
    assert len(kept) == pytest.approx(10 * min(source, wanted), abs=1)


def test_thinning_goes_on_when_a_source_begins_anew() -> None:
    thinning = Thinning(1.0)
    assert [thinning.keeps(at) for at in (0.0, 0.5, 1.0, 7.0, 0.0, 0.5, 1.0)] == [
        True, False, True, True, True, False, True,
    ]  # fmt: skip


def source(path: Path, fps: float | None = None) -> WatchSource:
    (found,) = parse_sources([f"s={path}"], [] if fps is None else [str(fps)])
    return found


def test_a_clip_is_read_whole_with_its_times(tmp_path: Path) -> None:
    found = list(pictures(source(draw_clip(tmp_path / "a.mp4", seconds=1.0))))
    assert [picture.pts_s for picture in found] == pytest.approx([n / 10 for n in range(10)])
    assert found[0].pixels.shape == (HEIGHT, WIDTH, 3)
    assert found[0].image.startswith(b"\xff\xd8")


def test_a_folder_of_pictures_is_sent_as_it_lies_there(tmp_path: Path) -> None:
    for name in ("2.png", "1.jpg", "notes.txt"):
        Image.new("RGB", (8, 6), (200, 10, 10)).save(tmp_path / name, "png" if "png" in name else "jpeg")
    found = list(pictures(source(tmp_path, fps=4.0)))
    assert [picture.pts_s for picture in found] == [0.0, 0.25]
    assert [picture.image for picture in found] == [(tmp_path / n).read_bytes() for n in ("1.jpg", "2.png")]


def broken(kind: str, folder: Path) -> Path:
    """A source of this kind that cannot be read."""
    path = folder / "bad.avi"
    if kind == "no decoder":
        path.write_bytes(draw_clip(path, codec="mpeg4").read_bytes().replace(b"FMP4", b"ZZQZ"))
    elif kind == "no video":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
    elif kind == "no pictures":
        path.mkdir()
    elif kind != "No such file":
        path.write_bytes(b"no video at all" * 100)
    return path


@pytest.mark.parametrize(
    "kind", ["no decoder", "no video in it", "no pictures", "No such file", "no video that FFmpeg knows"]
)
def test_what_cannot_be_read_is_one_clear_line(kind: str, tmp_path: Path) -> None:
    path = broken(kind.removesuffix(" in it"), tmp_path)
    with pytest.raises(SourceError) as error:
        list(pictures(source(path)))
    assert str(path) in str(error.value)
    assert kind in str(error.value)
    assert "\n" not in str(error.value)


def test_a_broken_packet_costs_its_own_frames_alone(tmp_path: Path) -> None:
    path = draw_clip(tmp_path / "a.avi", seconds=2.0, codec="mpeg4")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    assert 10 <= len(list(pictures(source(path)))) <= 20


class Fed:
    """A feed whose shots are kept and given back by hand."""

    def __init__(self, path: Path, policy: SendPolicy, room: int, loop: bool = False) -> None:
        self.shots: queue.Queue[Shot] = queue.Queue()
        self.ended = threading.Event()
        self.feed = Feed(source(path), policy, room, loop, True, False, self.shots.put, self.ended.set)
        self.feed.start()


def test_following_sends_every_frame_as_room_is_given_back(tmp_path: Path) -> None:
    fed = Fed(draw_clip(tmp_path / "a.mp4", seconds=2.0), SendPolicy.FOLLOW, room=3)
    places = []
    while len(places) < 20:
        shot = fed.shots.get(timeout=PATIENCE_S)
        assert fed.shots.qsize() < 3
        places.append(shot.place)
        fed.feed.room.release()
    assert fed.ended.wait(PATIENCE_S)
    assert places == list(range(20))
    assert (fed.feed.state.skipped, fed.feed.state.text, fed.feed.state.failed) == (0, "ended", False)


def test_skipping_leaves_out_what_there_is_no_room_for(tmp_path: Path) -> None:
    fed = Fed(draw_clip(tmp_path / "a.mp4", seconds=1.0), SendPolicy.SKIP, room=2)
    assert fed.ended.wait(PATIENCE_S)
    sent = fed.shots.qsize()
    assert sent <= 2, "nothing was given back"
    assert sent + fed.feed.state.skipped == 10


def test_a_looped_file_goes_on_in_time_and_place_until_it_is_stopped(tmp_path: Path) -> None:
    fed = Fed(draw_clip(tmp_path / "a.mp4", seconds=0.5), SendPolicy.FOLLOW, room=1, loop=True)
    shots = []
    for _ in range(17):
        shots.append(fed.shots.get(timeout=PATIENCE_S))
        fed.feed.room.release()
    fed.feed.stop()
    assert fed.ended.wait(PATIENCE_S)
    assert [shot.place for shot in shots] == list(range(17))
    assert [shot.pts_s for shot in shots] == pytest.approx([n / 10 for n in range(17)])


def test_a_camera_that_breaks_off_goes_on_in_time_and_place(tmp_path: Path) -> None:
    stream = draw_clip(tmp_path / "camera.ts", seconds=0.5).read_bytes()
    with camera_of(stream) as camera:
        ended, shots = threading.Event(), queue.Queue[Shot]()
        gate = WatchSource("gate", camera.address, Kind.NETWORK)
        feed = Feed(gate, SendPolicy.FOLLOW, 100, False, True, False, shots.put, ended.set)
        feed.start()
        found = [shots.get(timeout=PATIENCE_S) for _ in range(9)]
        feed.stop()
        assert ended.wait(PATIENCE_S)
    assert camera.passes >= 2
    assert [shot.place for shot in found] == list(range(9))
    assert all(np.diff([shot.pts_s for shot in found]) > 0)
    assert found[0].pts_s == 0.0


def test_a_live_source_that_is_not_there_is_tried_again_until_it_is_stopped() -> None:
    ended = threading.Event()
    nowhere = WatchSource("gone", "http://127.0.0.1:9/live.ts", Kind.NETWORK)
    feed = Feed(nowhere, SendPolicy.SKIP, 1, False, True, False, lambda shot: None, ended.set)
    feed.start()
    deadline = threading.Event()
    while feed.state.opened < 2:
        assert not ended.is_set()
        deadline.wait(0.05)
    assert "Connection refused; again in" in feed.state.text
    feed.stop()
    assert ended.wait(PATIENCE_S)
    assert not feed.state.failed


def answer(place: int = 0, **outputs: np.ndarray) -> ShotResult:
    pixels = np.zeros((60, 80, 3), np.uint8)
    shot = Shot("gate", place, place / 10, 0.0, b"", (1,), SourcePicture(place / 10, lambda: pixels))
    return ShotResult(shot, ShotFate.ANSWERED, 0.0421, outputs)


def detection() -> dict[str, np.ndarray]:
    return {
        "detected_boxes": np.array([[10, 12, 40, 50], [0, 0, 0, 0]], np.float32),
        "detected_scores": np.array([0.75, 0.0], np.float32),
        "detected_classes": np.array([2, -1], np.int32),
        "labels": np.array([b"stra\xc3\x9fe", b""], dtype=np.object_),
    }


def test_a_line_has_stream_place_pts_and_the_answers_rows() -> None:
    assert json.loads(line_of(answer(3, **detection()))) == {
        "stream": "gate",
        "place": 3,
        "pts": 0.3,
        "age_ms": 42.1,
        "answer": {
            "detected_boxes": [[10.0, 12.0, 40.0, 50.0]],
            "detected_scores": [0.75],
            "detected_classes": [2],
            "labels": ["straße"],
        },
    }


def test_a_line_of_a_frame_without_an_answer_says_why() -> None:
    late = ShotResult(answer().shot, ShotFate.SUPERSEDED, 0.01, why="superseded")
    assert json.loads(line_of(late))["superseded"] == "superseded"


def test_a_large_tensor_is_described() -> None:
    line = json.loads(line_of(answer(label_map=np.zeros((200, 200), np.uint8))))
    assert line["answer"] == {"label_map": {"dtype": "uint8", "shape": [200, 200]}}


@pytest.mark.parametrize(
    "outputs",
    [
        detection(),
        {"classes": np.array([4, 1]), "scores": np.array([0.9, 0.1], np.float32)},
        {"label_map": np.arange(12, dtype=np.uint8).reshape(3, 4)},
    ],
)
def test_what_was_found_is_drawn(outputs: dict[str, np.ndarray]) -> None:
    pixels = np.full((60, 80, 3), 90, np.uint8)
    drawn = annotated(pixels, outputs)
    assert drawn.shape == pixels.shape
    assert (drawn != pixels).any()
    assert (pixels == 90).all()


def test_at_a_box_stands_what_later_models_said_of_its_crop() -> None:
    outputs = {
        "words.read_text": np.array([[b"LEFT"], [b""], [b"lost"]], dtype=np.object_),
        "words.row": np.array([2, 0, 1]),
        "words.of": np.zeros(3, int),
        "words.answered": np.array([True, True, False]),
        "kinds.labels": np.array([[b"sign", b"car"]], dtype=np.object_),
        "kinds.classes": np.array([[4, 1]]),
        "kinds.row": np.array([2]),
        "kinds.of": np.zeros(1, int),
        "kinds.answered": np.array([True]),
        "a.labels": np.array([b"no cascade's"], dtype=np.object_),
    }
    assert said_of_rows(outputs) == {0: "", 2: "LEFT, sign"}


def test_a_clip_holds_all_pictures_in_order_whatever_order_answers_come_in(tmp_path: Path) -> None:
    clip, done = Clip(tmp_path / "gate.mp4"), []
    for place in (2, 0, 1, 5):  # 3 and 4 never come
        clip.add(answer(place), lambda place=place: done.append(place))
    clip.close()
    assert clip.error is None
    assert done == [0, 1, 2, 5]
    with av.open(str(tmp_path / "gate.mp4")) as container:
        times = [frame.time for frame in container.decode(video=0)]
    assert np.diff(times) == pytest.approx([0.1, 0.1, 0.3], abs=0.001)


def test_a_clip_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    clip = Clip(tmp_path / "missing" / "gate.mp4")
    clip.add(answer(), lambda: None)
    clip.close()
    assert "No such file" in str(clip.error)
