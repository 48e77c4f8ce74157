"""The ticket on the wire: JSON text in the request parameter `ppipe_ticket`, signed with the deployment's
key. One format, FORMAT, of which every ticket says the number; a receiver refuses any other.

    {"v": 2, "deployment": "street", "revision": 3, "hop": 0,
     "batch": 17, "attempt": 0, "pipeline": 0, "deadline_us": ...,
     "hops": [["<worker>", "<server>", transfer start, transfer end, start, end], ...],
     "entry": "<server>", "back_us": 1500,
     "relative": false, "sent": ..., "stamp": ["<run>", <number>, <time of day>],
     "digest": "...", "frames": [...], "chain": true, "device": true, "ingress": [...],   where needed
     "fences": [["<shard>", term], ...],                              where there are several entries
     "mac": "..."}

Rules
- A ticket names workers and servers, never addresses: those are in the table of servers.
- A stage knows nothing of plans. All that it needs of the rest of the way is here: which worker is next, what
  the stages and transfers to come take (the hops' own lengths) and the way back (back_us), and which entry
  server hears of the end.
- `revision` says by which table the batch was decided. Stages serve tickets of all revisions alike.
- The signature (HMAC-SHA256 over the text before it, so over deployment, revision, batch, attempt and the hop
  that it is for) makes a stage refuse what did not come from its own dispatcher. Each hop signs for the next.
- Times are absolute CLOCK_MONOTONIC microseconds within a host. Hosts do not share that clock, so between
  hosts all times are written relative to their sending. `sent` is when that was, on the entry's clock, where
  the sender knows it. Who knows that clock too counts from then; others from receipt, and the flight counts
  as time gained (wire.clocks).
- A probe ticket carries no reservation. Stages answer it at once, outside the reserved order, with zeros. It
  harms nobody, so `{"probe": true}` needs neither signature nor deployment: a health check has no key.
- `fences`: by hop, the worker's shard and the term with which the sender owns it. A worker refuses a lower
  term than the highest that it has seen of a shard, so an owner that has been replaced finds out from it.
- Each sending has a stamp of its own, so a receiver knows a ticket that it has seen (wire.signing.replays).
- Between hosts without TLS, tensors or frames in the message are covered by a digest in the ticket.
- Keys: wire.signing.keys.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import field
from typing import Any, Final

from planner.owned import Fence
from python_backend.scheduler.actions import Hop, Ticket, plain_ticket, tensor_hop
from python_backend.scheduler.declare import record
from python_backend.scheduler.record import Record
from python_backend.wire.clocks import NO_CLOCKS, EntryClocks, origin_us
from python_backend.wire.kserve import Buffer
from python_backend.wire.ragged import FrameInfo, info_of
from python_backend.wire.signing.keys import Keys, Stamp, TicketError
from python_backend.wire.signing.signatures import is_signed, object_in, signed_object

PARAMETER: Final = "ppipe_ticket"
FORMAT: Final = 3
"""2: places; 3: digests by AEGIS. A field that may be left out needs no new number; one that changes what
others mean does.
"""
FOREIGN_KEY: Final = "the signature is not of this deployment's dispatcher"
ANONYMOUS_PROBE_TEXT: Final = '{"probe":true}'
_IN_A_CHAIN: Final = "chain"
_TEXT_LIMIT: Final = 64_000


@record
class SharedFrames(Record):
    """Where a batch lies: in the file `name` in /dev/shm with this inode, from `offset` on, for as long as
    the generation there is this one.
    """

    name: str
    inode: int
    offset: int
    generation: int


@record
class Way(Record):
    """What stages must know of a batch's way beside its ticket. servers: of each hop's worker. entry: the
    server whose dispatcher has sent it, and hears of every stage's end. back_us: from the end of the last
    stage's compute until the answers are at the entry, waits for links aside. fences: of each hop's worker;
    empty where there is one entry.
    """

    servers: tuple[str, ...]
    entry: str
    back_us: int
    fences: tuple[Fence, ...] = ()


NO_WAY: Final = Way((), "", 0)
"""Of a ticket that goes nowhere from where it is."""


@record
class WireTicket(Record):
    """A ticket as hop `hop` gets it. ticket: None for a probe. frames: None if the tensors came along.

    revision: of the table by which it was decided. chain: the ensemble of all the stages that it is for: each
    finds its hop by its own name, and passes nothing on. Stages are told only that there is one. on_device:
    whether all of them sit on one GPU, so that what passes between them stays there. relative: whether it
    came from another host, so that its times were set on arrival; not compared. ingress: the frames as their
    clients sent them, where the first stage's host prepares them; else empty. stamp: of its sending; digest:
    of what came in the message, '' where none is needed; neither is compared.
    """

    deployment: str
    revision: int
    hop: int
    ticket: Ticket | None
    frames: SharedFrames | None = None
    chain: str = ""
    relative: bool = field(default=False, compare=False)
    ingress: tuple[FrameInfo, ...] = ()
    stamp: Stamp | None = field(default=None, compare=False)
    digest: str = field(default="", compare=False)
    way: Way = NO_WAY
    on_device: bool = False

    @property
    def is_probe(self) -> bool:
        """Whether it asks only for a sign of life."""
        return self.ticket is None

    @property
    def chained(self) -> bool:
        """Whether it is for an ensemble of all the stages."""
        return len(self.chain) > 0

    @property
    def carries_frames(self) -> bool:
        """Whether clients' frames go with it, as they came, and not tensors."""
        return self.hop == 0 and len(self.ingress) > 0

    @property
    def rest_us(self) -> int:
        """What this hop's stage and all that follows take, queues and waits for links aside."""
        assert self.ticket is not None
        hops = self.ticket.hops
        rest_us = self.way.back_us + hops[self.hop].end_us - hops[self.hop].start_us
        for index in range(self.hop + 1, len(hops)):
            hop = hops[index]
            rest_us += hop.transfer_end_us - hop.transfer_start_us + hop.end_us - hop.start_us
        return rest_us

    def for_next_hop(self) -> WireTicket:
        """The same ticket for the stage after this one, to which tensors come in their message."""
        return self._changed(self.hop + 1, self.ticket, None, self.chain, self.on_device)

    def at_hop(self, hop: int, ticket: Ticket | None = None) -> WireTicket:
        """The same ticket as another hop has it, perhaps with other times."""
        return self._changed(hop, ticket or self.ticket, self.frames, self.chain, self.on_device)

    def in_memory(self, frames: SharedFrames) -> WireTicket:
        """The same ticket for tensors that lie in shared memory."""
        return self._changed(self.hop, self.ticket, frames, self.chain, self.on_device)

    def for_chain(self, name: str, on_device: bool = False) -> WireTicket:
        """The same ticket for an ensemble of its stages."""
        return self._changed(self.hop, self.ticket, self.frames, name, on_device)

    def _changed(
        self, hop: int, ticket: Ticket | None, frames: SharedFrames | None, chain: str, on_device: bool
    ) -> WireTicket:
        return WireTicket(
            self.deployment, self.revision, hop, ticket, frames, chain, self.relative, self.ingress,
            self.stamp, self.digest, self.way, on_device,
        )  # fmt: skip


_ANONYMOUS_PROBE = WireTicket(deployment="", revision=0, hop=0, ticket=None)


def encode(
    wire: WireTicket,
    keys: Keys,
    sent_us: int | None = None,
    covered: Sequence[Sequence[Buffer]] | None = None,
    sent_on_entry: int | None = None,
) -> str:
    """The text of a ticket, good for one sending. `sent_us`: now, when the receiver is on another host; None
    on the same host. sent_on_entry: the same on the entry's clock, where that is known. covered: what goes
    with it in the message, to be covered by a digest.
    """
    assert wire.ticket is not None
    stamp = keys.stamp()
    way = wire.way
    fields = [
        f'{{"v":{FORMAT},"deployment":{_quoted(wire.deployment)},"revision":{wire.revision},"hop":{wire.hop}',
        _ticket_fields(wire.ticket, way, sent_us or 0),
        f'"entry":{_quoted(way.entry)},"back_us":{way.back_us}',
        '"relative":false' if sent_us is None else '"relative":true',
        f'"stamp":["{stamp.run}",{stamp.number},{stamp.sent_us}]',
    ]
    if sent_on_entry is not None:
        fields.append(f'"sent":{sent_on_entry}')
    if covered is not None:
        fields.append(f'"digest":"{keys.digest(stamp, [piece for pieces in covered for piece in pieces])}"')
    if (frames := wire.frames) is not None:
        name = _quoted(frames.name)
        fields.append(f'"frames":[{name},{frames.inode},{frames.offset},{frames.generation}]')
    if wire.chain:
        fields.append('"chain":true,"device":true' if wire.on_device else '"chain":true')
    if way.fences:
        fenced = ",".join([f"[{_quoted(fence.shard)},{fence.term}]" for fence in way.fences])
        fields.append(f'"fences":[{fenced}]')
    if wire.ingress:
        fields.append(f'"ingress":[{",".join([info.to_text() for info in wire.ingress])}]')
    return signed_object(",".join(fields), keys)


def in_parameters(text: str) -> str | None:
    """The ticket's text in a request's parameters, a JSON object as Triton writes it; None without one.
    Raises ValueError.
    """
    told = _value_of(text).get(PARAMETER)
    return None if told is None else str(told)


def stray_text(keys: Keys) -> str:
    """A ticket that every stage refuses: who has the same keys for being of no deployment, others for its
    signature. So it tells whether two hosts have the same keys, and nothing is done.
    """
    nowhere = tensor_hop("nobody", 0, 0, 0, 0)
    ticket = plain_ticket(batch_id=0, attempt=0, pipeline=0, deadline_us=0, hops=(nowhere,))
    return encode(WireTicket(deployment="", revision=0, hop=0, ticket=ticket), keys, sent_us=0)


def decode(text: str, keys: Keys, received_us: int, clocks: EntryClocks = NO_CLOCKS) -> WireTicket:
    """The ticket in `text`, its times on this host's clock. clocks: what is known here of the entries'.
    Raises TicketError.
    """
    if len(text) > _TEXT_LIMIT:
        raise TicketError(f"{PARAMETER}: {len(text)} characters; expected at most {_TEXT_LIMIT}")
    if not is_signed(text):
        if is_anonymous_probe(text):
            return _ANONYMOUS_PROBE
        raise TicketError(
            f"{PARAMETER}: no signature field; expected a ticket of this deployment's dispatcher"
        )
    signed = object_in(text, keys)
    if signed is None:
        raise TicketError(f"{PARAMETER}: {FOREIGN_KEY}")
    try:
        return _wire_ticket(_value_of(signed), received_us, clocks)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise TicketError(f"{PARAMETER}: {type(error).__name__}: {error}") from error


def check_addressee(wire: WireTicket, deployment: str, worker: str) -> None:
    """Raises TicketError unless the ticket is of this deployment and for this worker: for its blocks of its
    split, and its place, which its name says.
    """
    if wire is _ANONYMOUS_PROBE:
        return
    if wire.deployment != deployment:
        raise TicketError(f"{PARAMETER}: of deployment {wire.deployment!r}; {deployment!r} is served here")
    if wire.ticket is not None and wire.ticket.hops[wire.hop].worker != worker:
        raise TicketError(f"{PARAMETER}: for worker {wire.ticket.hops[wire.hop].worker!r}, not {worker!r}")


def at_own_hop(wire: WireTicket, worker: str, received_us: int) -> WireTicket:
    """The ticket of a chain as its stage on `worker` has it; any other as it is. Raises TicketError.

    Between hosts, times were set as if it had been received when it was sent. A later stage of a chain gets
    it when the stage before has ended, so it takes that for having been on time.
    """
    if not wire.chained or wire.ticket is None:
        return wire
    workers = [hop.worker for hop in wire.ticket.hops]
    if worker not in workers:
        raise TicketError(f"{PARAMETER}: for workers {', '.join(workers)}, not {worker!r}")
    hop = workers.index(worker)
    if wire.relative and hop:
        late_us = wire.ticket.hops[hop - 1].end_us - received_us
        return wire.at_hop(hop, _shifted(wire.ticket, -late_us))
    return wire.at_hop(hop)


def _shifted(ticket: Ticket, by_us: int) -> Ticket:
    hops = tuple(tensor_hop(hop.worker, *(time_us + by_us for time_us in _times(hop))) for hop in ticket.hops)
    return plain_ticket(ticket.batch_id, ticket.attempt, ticket.pipeline, ticket.deadline_us + by_us, hops)


def is_anonymous_probe(text: object) -> bool:
    """Whether it is a ticket that asks for a sign of life only and says nothing else."""
    if not isinstance(text, str) or len(text) > _TEXT_LIMIT:
        return False
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(body, dict) and body.get("probe") is True


_raw_decode = json.JSONDecoder().raw_decode


def _value_of(text: str) -> Any:
    """As json.loads, in two thirds of its time; blanks before the value are refused. Raises ValueError."""
    value, end = _raw_decode(text)
    return value if end == len(text) else json.loads(text)  # blanks may follow, and nothing else


_quoted = functools.lru_cache(maxsize=4096)(json.dumps)


def _ticket_fields(ticket: Ticket, way: Way, origin_us: int) -> str:
    """As JSON. Formatted here, because json.dumps takes three times as long and every hop waits for it."""
    servers = way.servers or ("",) * len(ticket.hops)
    hops = ",".join(
        [
            f"[{_quoted(hop.worker)},{_quoted(server)},{hop.transfer_start_us - origin_us},"
            f"{hop.transfer_end_us - origin_us},{hop.start_us - origin_us},{hop.end_us - origin_us}]"
            for hop, server in zip(ticket.hops, servers, strict=True)
        ]
    )
    return (
        f'"batch":{ticket.batch_id},"attempt":{ticket.attempt},"pipeline":{ticket.pipeline},'
        f'"deadline_us":{ticket.deadline_us - origin_us},"hops":[{hops}]'
    )


def _times(hop: Hop) -> Sequence[int]:
    return hop.transfer_start_us, hop.transfer_end_us, hop.start_us, hop.end_us


def _wire_ticket(body: Any, received_us: int, clocks: EntryClocks) -> WireTicket:
    if not isinstance(body, dict):
        raise TypeError("expected an object")
    if body.get("v") != FORMAT:
        raise ValueError(f"format {body.get('v')!r:.40}; this stage reads format {FORMAT}")
    entry = _text(body["entry"])
    set_us = 0
    if body["relative"]:
        sent = _whole(body["sent"]) if "sent" in body else None
        set_us = origin_us(clocks.offset(entry), sent, received_us)
    ticket = plain_ticket(
        batch_id=_whole(body["batch"]),
        attempt=_whole(body["attempt"]),
        pipeline=_whole(body["pipeline"]),
        deadline_us=_whole(body["deadline_us"]) + set_us,
        hops=tuple(_hop(plain, set_us) for plain in body["hops"]),
    )
    hop = _whole(body["hop"])
    if not 0 <= hop < len(ticket.hops):
        raise ValueError(f"hop {hop} of {len(ticket.hops)}")
    frames = _shared_frames(body["frames"]) if "frames" in body else None
    servers = tuple([_text(plain[1]) for plain in body["hops"]])
    fences = tuple([Fence(_text(shard), _whole(term)) for shard, term in body.get("fences", ())])
    if fences and len(fences) != len(servers):
        raise ValueError(f"{len(fences)} fences for {len(servers)} hops")
    return WireTicket(
        deployment=_text(body["deployment"]),
        revision=_whole(body["revision"]),
        hop=hop,
        ticket=ticket,
        frames=frames,
        chain=_IN_A_CHAIN if body.get("chain") is True else "",
        relative=body["relative"] is True,
        ingress=tuple([info_of(plain) for plain in body.get("ingress", ())]),
        stamp=_stamp(body["stamp"]),
        digest=_text(body.get("digest", "")),
        way=Way(servers if any(servers) else (), entry, _whole(body["back_us"]), fences),
        on_device=body.get("device") is True,
    )


def _stamp(plain: Any) -> Stamp:
    run, number, sent_us = plain
    return Stamp(_text(run), _whole(number), _whole(sent_us))


def _shared_frames(plain: Any) -> SharedFrames:
    name, inode, offset, generation = plain
    return SharedFrames(_text(name), _whole(inode), _whole(offset), _whole(generation))


def _hop(plain: Any, origin_us: int) -> Hop:
    worker, _, transfer_start_us, transfer_end_us, start_us, end_us = plain
    return tensor_hop(
        _text(worker),
        _whole(transfer_start_us) + origin_us,
        _whole(transfer_end_us) + origin_us,
        _whole(start_us) + origin_us,
        _whole(end_us) + origin_us,
    )


def _whole(value: Any) -> int:
    if type(value) is not int or abs(value) >= 1 << 62:
        raise TypeError(f"{value!r:.40} is not a whole number of 62 bits")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a text")
    return value
