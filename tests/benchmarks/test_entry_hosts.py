"""What is counted of frames around a fault of the network, and of dispatchers with little."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.helpers.entries.hosts import LOST_ENTRY, SLO_US, Fault, figures, together
from benchmarks.helpers.loads.tagged import TaggedFrame
from benchmarks.helpers.machines.cpu_quota import NoQuota, quota

SLO_S = SLO_US / 1e6
CUT_S, BACK_S = 2.0, 4.0


def frames(took_s: float = 0.1, until_s: float = 10.0) -> list[TaggedFrame]:
    """Ten a second, to either entry in turn."""
    sent = [number / 10 for number in range(round(10 * until_s))]
    return [TaggedFrame(at_s, at_s, at_s + took_s, answers=1) for at_s in sent]


def fault(name: str = "etcd killed", lost_entry: int | None = None, loses: bool = False) -> Fault:
    return Fault(name, BACK_S - CUT_S, lambda running: contextlib.nullcontext(), lost_entry, loses)


def test_all_is_well() -> None:
    found = figures(fault(), frames(), CUT_S, BACK_S)
    assert (found["frames"], found["attained"], found["not_ended"], found["back_s"]) == (20, 1.0, 0, 0.0)


def test_callers_of_a_lost_entry_do_not_count_and_those_of_the_other_do() -> None:
    sent = frames()
    for number, frame in enumerate(sent):
        if number % 2 == 1 and CUT_S <= frame.sent_s < BACK_S:
            frame.ended_s, frame.error = frame.sent_s + 9, "DEADLINE_EXCEEDED"
    assert figures(fault(lost_entry=1), sent, CUT_S, BACK_S)["attained"] == 1.0
    found = figures(fault(), sent, CUT_S, BACK_S)
    assert (found["attained"], found["not_ended"]) == (0.5, 10)


def test_the_first_second_without_a_stage_host_does_not_count() -> None:
    sent = frames()
    for frame in sent:
        if CUT_S <= frame.sent_s < CUT_S + 1:
            frame.ended_s = frame.sent_s + SLO_S + 0.5
    assert figures(fault(loses=True), sent, CUT_S, BACK_S)["attained"] == 1.0
    found = figures(fault(), sent, CUT_S, BACK_S)
    assert (found["attained"], found["not_ended"]) == (0.5, 0), "late, and within a second of the deadline"


def test_frames_are_back_when_they_stay_so() -> None:
    sent = frames()
    sent[55].error = "UNAVAILABLE"
    found = figures(fault(), sent, CUT_S, BACK_S)
    assert found["back_s"] == pytest.approx(1.6)
    unanswered = frames()
    unanswered[25].ended_s, unanswered[25].answers = None, 0
    found = figures(fault(), unanswered, CUT_S, BACK_S)
    assert (found["unanswered"], found["not_ended"]) == (1, 1)


def test_an_entry_that_is_cut_off_need_not_keep_its_shard() -> None:
    one = figures(fault(), frames(), CUT_S, BACK_S)
    lost = figures(fault(LOST_ENTRY, 1), frames(), CUT_S, BACK_S)
    assert together([one | {"kept": True}, lost | {"kept": False}])["apart_kept"]
    assert not together([one | {"kept": False}])["apart_kept"]


def test_a_process_gets_its_share_and_all_again_afterwards() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(quota([busy.pid], 0.05))
            except NoQuota as error:
                pytest.skip(f"no CPU quota here: {error}")
            before, began_s = used_s(busy.pid), time.monotonic()
            while (passed_s := time.monotonic() - began_s) < 1.0:
                time.sleep(0.05)
            assert used_s(busy.pid) - before < 0.05 * passed_s + 0.1
        groups = Path(f"/proc/{busy.pid}/cgroup").read_text()
        assert f"ppipe-quota-{os.getpid()}-{busy.pid}" not in groups
    finally:
        busy.kill()
        busy.wait()


def used_s(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
