"""Tickets survive the wire, and nothing but a genuine one is taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.owned import Fence
from python_backend.scheduler.actions import Ticket, plain_ticket, tensor_hop
from python_backend.wire.signing.keys import Keys, TicketError
from python_backend.wire.ticket_codec import Way, WireTicket, check_addressee, decode, encode

TIMES = st.integers(-(1 << 50), 1 << 50)
HOPS = st.builds(tensor_hop, st.text(max_size=20), TIMES, TIMES, TIMES, TIMES)
TICKETS = st.builds(
    plain_ticket,
    batch_id=st.integers(0, 1 << 40),
    attempt=st.integers(0, 9),
    pipeline=st.integers(0, 9),
    deadline_us=TIMES,
    hops=st.lists(HOPS, min_size=1, max_size=4).map(tuple),
)


def keys_of(folder: Path, *lines: str, look_us: int = 1 << 60) -> Keys:
    path = folder / "keys"
    path.write_text("\n".join(lines))
    return Keys(path, look_us)


def wire(ticket: Ticket | None = None, **changes: object) -> WireTicket:
    ticket = ticket or plain_ticket(
        3, 0, 0, 99_000, (tensor_hop("w0", 0, 0, 10, 20), tensor_hop("w1", 20, 30, 30, 40))
    )
    fields = {"deployment": "d", "revision": 2, "hop": 0, "ticket": ticket}
    return WireTicket(**(fields | changes))  # type: ignore[arg-type]


@given(ticket=TICKETS, sent_us=st.one_of(st.none(), TIMES), flight_us=st.integers(0, 10_000))
def test_a_ticket_arrives_as_sent(ticket: Ticket, sent_us: int | None, flight_us: int) -> None:
    keys = Keys.none()
    received_us = 5 if sent_us is None else sent_us
    text = encode(wire(ticket), keys, sent_us)
    assert decode(text, keys, received_us) == wire(ticket)
    if sent_us is not None:
        arrived = decode(text, keys, received_us + flight_us).ticket
        assert arrived is not None
        assert arrived.deadline_us == ticket.deadline_us + flight_us


@given(ticket=TICKETS, servers=st.lists(st.text(max_size=20), min_size=4, max_size=4), back_us=TIMES)
def test_what_stages_need_of_the_way_arrives_with_it(
    ticket: Ticket, servers: list[str], back_us: int
) -> None:
    fences = tuple(Fence(server, abs(back_us)) for server in servers[: len(ticket.hops)])
    way = Way(tuple(f"s{server}" for server in servers[: len(ticket.hops)]), "entry-1", abs(back_us), fences)
    sent = wire(ticket, way=way, chain="chain", on_device=True)
    received = decode(encode(sent, Keys.none()), Keys.none(), 0)
    assert (received.way, received.revision, received.on_device) == (way, 2, True)
    lengths = [hop.end_us - hop.start_us for hop in ticket.hops]
    lengths += [hop.transfer_end_us - hop.transfer_start_us for hop in ticket.hops[1:]]
    assert received.rest_us == sum(lengths) + way.back_us
    last = received.at_hop(len(ticket.hops) - 1)
    assert last.rest_us == ticket.hops[-1].end_us - ticket.hops[-1].start_us + way.back_us


def test_a_ticket_of_another_format_is_refused() -> None:
    text = encode(wire(), Keys.none())
    with pytest.raises(TicketError, match="format 1; this stage reads format 3"):
        decode(text.replace('{"v":3,', '{"v":1,'), Keys.none(), 0)


def test_any_change_of_a_signed_ticket_is_noticed(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "k" * 32)
    text = encode(wire(), keys)
    assert decode(text, keys, 0) == wire()
    for position in range(len(text)):
        changed = text[:position] + chr(ord(text[position]) ^ 1) + text[position + 1 :]
        with pytest.raises(TicketError):
            decode(changed, keys, 0)


def test_each_hop_has_its_own_signature(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "k" * 32)
    first, second = encode(wire(), keys), encode(wire().for_next_hop(), keys)
    assert first[-70:] != second[-70:]


def test_keys_rotate_without_a_gap(tmp_path: Path) -> None:
    old, new = "o" * 32, "n" * 32
    stage, sender = keys_of(tmp_path, old), keys_of(tmp_path, old, look_us=0)
    with_old = sender.mac("text")
    keys_of(tmp_path, old, new)
    assert sender.mac("text") == with_old
    keys_of(tmp_path, new, old)
    assert sender.mac("text") != with_old
    # A signature that fits no key makes the stage look at the file.
    stamp = sender.stamp()
    assert decode(encode(wire(), sender), stage, 0) == wire()
    assert stage.accepts("text", with_old)
    assert stage.accepts_digest(stamp, [b"tensor"], sender.digest(stamp, [b"ten", b"sor"]))


def test_a_key_that_was_taken_out_is_refused(tmp_path: Path) -> None:
    stage = keys_of(tmp_path, "o" * 32, look_us=0)
    with_old = encode(wire(), stage)
    keys_of(tmp_path, "n" * 32)
    with pytest.raises(TicketError, match="signature"):
        decode(with_old, stage, 0)


def test_a_key_file_in_the_making_leaves_the_old_keys_in_force(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "k" * 32, look_us=0)
    text = encode(wire(), keys)
    (tmp_path / "keys").write_text("")
    assert decode(text, keys, 0) == wire()


def test_without_a_key_nothing_is_genuine_unless_the_deployment_says_so(tmp_path: Path) -> None:
    keyless = Keys(None)
    for sender in (keyless, Keys.none(), keys_of(tmp_path, "k" * 32)):
        with pytest.raises(TicketError, match="signature"):
            decode(encode(wire(), sender), keyless, 0)
        assert not keyless.accepts_digest(sender.stamp(), [], "")
        assert decode(encode(wire(), sender), Keys.none(), 0) == wire()


def test_each_sending_has_a_ticket_of_its_own(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "k" * 32)
    stamps = [decode(encode(wire(), keys), keys, 0).stamp for _ in range(3)]
    assert len({(stamp.run, stamp.number) for stamp in stamps if stamp}) == 3


@given(st.lists(st.binary(max_size=40), max_size=4), st.integers(0, 1 << 20))
def test_a_digest_covers_every_bit_of_what_is_sent(pieces: list[bytes], flipped: int) -> None:
    with TemporaryDirectory() as folder:
        keys, others = keys_of(Path(folder), "k" * 32), keys_of(Path(folder), "o" * 32)
    sent = decode(encode(wire(), keys, 7, [pieces]), keys, 7)
    assert sent.stamp is not None
    assert keys.accepts_digest(sent.stamp, [b"".join(pieces)], sent.digest)
    changed = bytearray(b"".join(pieces)) or bytearray(1)
    changed[flipped // 8 % len(changed)] ^= 1 << flipped % 8
    assert not keys.accepts_digest(sent.stamp, [bytes(changed)], sent.digest)
    assert not keys.accepts_digest(keys.stamp(), pieces, sent.digest)
    assert not others.accepts_digest(sent.stamp, pieces, sent.digest)


def test_short_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TicketError, match="16 characters"):
        keys_of(tmp_path, "short")


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "deployment",
                        "v",
                        "revision",
                        "hop",
                        "batch",
                        "attempt",
                        "pipeline",
                        "deadline_us",
                        "hops",
                        "relative",
                    ]
                ),
                inner,
            )
        ),
    )
)
def test_nothing_but_a_ticket_is_taken(body: object) -> None:
    text = json.dumps(body, separators=(",", ":"))
    signed = f'{text[:-1]},"mac":""}}'
    with pytest.raises(TicketError):
        decode(signed, Keys.none(), 0)


def test_a_probe_needs_no_key(tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "k" * 32)
    probe = decode('{"probe": true}', keys, 0)
    assert probe.is_probe
    check_addressee(probe, "d", "w0")


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"deployment": "x"}, "deployment 'x'"), ({"hop": 1}, "worker 'w1'")],
)
def test_tickets_of_others_are_refused(changes: dict[str, object], said: str) -> None:
    check_addressee(wire(), "d", "w0")
    check_addressee(wire(revision=1), "d", "w0")  # stages know no plans: any revision's will do
    with pytest.raises(TicketError, match=said):
        check_addressee(wire(**changes), "d", "w0")
