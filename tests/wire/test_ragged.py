"""Unequal frames on the wire: descriptions in the signed ticket, bytes in one tensor or in shared memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from python_backend.scheduler.actions import plain_ticket, tensor_hop
from python_backend.wire import kserve, ticket_codec
from python_backend.wire.clock import now_us
from python_backend.wire.ragged import FrameInfo, FrameKind, body_of, faults_of, status_array
from python_backend.wire.shm.arena import Arena, padded_size, share_of
from python_backend.wire.shm.file import SharedFile
from python_backend.wire.shm.reader import CannotRead, SharedReader
from python_backend.wire.signing.keys import Keys, TicketError
from python_backend.wire.ticket_codec import SharedFrames, WireTicket
from python_backend.wire.transport import in_message

FRAMES = (b"first", b"", b"the third one")
INFOS = (
    FrameInfo(FrameKind.ENCODED, 5, 1920, 1080, 6),
    FrameInfo(FrameKind.PIXELS, 0, 0, 0),
    FrameInfo(FrameKind.TENSOR, 13),
)


def wire(infos: tuple[FrameInfo, ...] = INFOS) -> WireTicket:
    hops = (tensor_hop("w0", 0, 0, 0, 10), tensor_hop("w1", 10, 10, 10, 20))
    return WireTicket("d", 1, 0, plain_ticket(1, 0, 0, now_us() + 1_000_000, hops), ingress=infos)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=9))
def test_a_body_is_one_tensor_of_as_many_elements(frames: list[bytes]) -> None:
    ((*pieces,),) = body_of([[frame[:3], frame[3:]] for frame in frames])
    assert kserve.elements_of(b"".join(pieces)) == frames
    array = kserve.array_of("BYTES", b"".join(pieces), (len(frames), 1))
    assert (array.shape, array.ravel().tolist()) == ((len(frames), 1), frames)


@pytest.mark.parametrize("cut", [1, 5])
def test_a_body_that_ends_too_early_is_refused(cut: int) -> None:
    ((*pieces,),) = body_of([[frame] for frame in FRAMES])
    with pytest.raises(ValueError, match="ends inside an element"):
        kserve.elements_of(b"".join(pieces)[:-cut])


def test_descriptions_travel_signed_to_the_last_hop_and_bytes_to_the_first(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a key of this deployment\n")
    keys = Keys(tmp_path / "key")
    text = ticket_codec.encode(wire(), keys)
    received = ticket_codec.decode(text, keys, now_us())
    assert received.ingress == INFOS
    assert received.carries_frames
    later = received.for_next_hop()
    assert (later.ingress, later.carries_frames) == (INFOS, False)
    pieces = [[frame] for frame in FRAMES]
    assert len(in_message(received, pieces)) == 1
    assert in_message(later, pieces) is pieces
    with pytest.raises(TicketError, match="signature"):
        ticket_codec.decode(text.replace("1920", "1921"), keys, now_us())


@pytest.mark.parametrize("plain", ['["x",5,0,0,1]', '["e",-5,0,0,1]', '["e",5,0,0]', '["e",5.0,0,0,1]', "7"])
def test_a_description_that_is_none_is_refused(plain: str) -> None:
    text = ticket_codec.encode(wire(INFOS[:1]), Keys.none()).replace(INFOS[0].to_text(), plain)
    with pytest.raises(TicketError):
        ticket_codec.decode(text, Keys.none(), now_us())


def test_sides_change_places_where_a_frame_lies_on_its_side() -> None:
    assert INFOS[0].upright == (1080, 1920)
    assert FrameInfo(FrameKind.ENCODED, 5, 1920, 1080, 3).upright == (1920, 1080)


@given(st.dictionaries(st.integers(0, 7), st.text(min_size=1, max_size=9)))
def test_faults_come_back_as_they_were_said(faults: dict[int, str]) -> None:
    assert faults_of(status_array(faults, 8)) == faults


def test_frames_lie_in_shared_memory_one_after_the_other() -> None:
    share = share_of(0, [100] * 3, 2)
    arena = Arena(SharedFile("ragged", share.end, share), share)
    reader = SharedReader()
    try:
        place = arena.take(padded_size([len(frame) for frame in FRAMES]))
        assert place is not None
        arena.write(place, [[frame] for frame in FRAMES])
        frames = SharedFrames(arena.file.name, arena.file.inode, place.offset, place.generation)
        found = reader.pieces(frames, [len(frame) for frame in FRAMES])
        assert [bytes(piece) for piece in found] == list(FRAMES)
        with pytest.raises(CannotRead, match="no bytes"):
            reader.pieces(frames, [1 << 40])
    finally:
        reader.close()
        arena.close()


def test_texts_in_answers_come_back_as_arrays() -> None:
    labels = np.array([[b"cat", "Käfer".encode()], [b"", b"x"]], dtype=np.object_)
    message = pb.ModelInferResponse()
    message.outputs.add(name="labels", datatype="BYTES", shape=labels.shape)
    elements = [[bytes(text)] for text in labels.ravel()]
    message.raw_output_contents.append(b"".join(body_of(elements)[0]))
    found = kserve.response_outputs(message.SerializeToString())["labels"]
    np.testing.assert_array_equal(found, labels)
