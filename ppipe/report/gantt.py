"""Data of the Gantt charts: what happened on which worker when, for the script in the page to draw.

A chart has a stretch of a run, the one in which most was late or dropped, as long as the page has room for.
Lists instead of objects, because there are thousands: see `BATCH`, `HOP` and `FRAME` for their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ppipe.report.runs import Run, RunBatch, RunFrame, worst_window

BATCH = ("id", "attempt", "pipeline", "deadline", "sent", "answered", "frames", "hops")
HOP = ("worker", "transfer start", "transfer end", "ready", "start", "end")
FRAME = ("id", "arrived", "answered or -1", "dropped or -1", "reason's place or -1", "batch's place or -1")
MOST_BATCHES = 8_000
"""Of all charts of a page."""
LEAST_BATCHES = 200


def charts_of(runs: Sequence[Run], subject: str, page_runs: int) -> list[Mapping[str, object]]:
    """A chart for each run that has batches or drops. page_runs: how many the page has in all."""
    room = max(LEAST_BATCHES, MOST_BATCHES // max(1, page_runs))
    return [_chart(run, subject, room) for run in runs if run.frames]


def _chart(run: Run, subject: str, room: int) -> Mapping[str, object]:
    window = worst_window(run, room)
    shown = [batch for batch in run.batches if window[0] <= batch.sent_us < window[1]]
    places = {id(batch): place for place, batch in enumerate(shown)}
    workers = [worker.name for _, worker in run.served.workers()]
    workers += sorted({hop.worker for batch in shown for hop in batch.ticket.hops} - set(workers))
    number = {name: place for place, name in enumerate(workers)}
    reasons = sorted(run.drops)
    inside = [
        frame
        for frame in run.frames.values()
        if window[0] <= frame.arrived_us < window[1]
        or (frame.batch is not None and id(run.batches[frame.batch]) in places)
    ]
    return {
        "model": run.model,
        "subject": subject,
        "policy": run.policy,
        "slo_us": run.served.slo_us,
        "window_us": window,
        "whole_us": max((frame.arrived_us for frame in run.frames.values()), default=0),
        "note": run.note,
        "workers": workers,
        "reasons": reasons,
        "batches": [_batch(batch, run.start_us, number) for batch in shown],
        "frames": [_frame(frame, run, reasons, places) for frame in inside],
    }


def _batch(batch: RunBatch, start_us: int, number: Mapping[str, int]) -> list[object]:
    ticket = batch.ticket
    hops = [
        [
            number[hop.worker],
            hop.transfer_start_us - start_us,
            hop.transfer_end_us - start_us,
            hop.ready_us - start_us,
            hop.start_us - start_us,
            end_us,
        ]
        for hop, end_us in zip(ticket.hops, batch.ends_us, strict=True)
    ]
    return [
        ticket.batch_id, ticket.attempt, ticket.pipeline, ticket.deadline_us - start_us, batch.sent_us,
        batch.answered_us, list(batch.request_ids), hops,
    ]  # fmt: skip


def _frame(frame: RunFrame, run: Run, reasons: Sequence[str], places: Mapping[int, int]) -> list[int]:
    batch = -1 if frame.batch is None else places.get(id(run.batches[frame.batch]), -1)
    return [
        frame.request_id,
        frame.arrived_us,
        -1 if frame.ended_us is None else frame.ended_us,
        frame.dropped_us if frame.why else -1,
        reasons.index(frame.why) if frame.why else -1,
        batch,
    ]
