"""What processes hold more of after a benchmark than before."""

from __future__ import annotations

from benchmarks.helpers.machines.leaks import Held, Snapshot, growth

STAGE, SERVER = ("m.p0.s0.w0", 7), ("gpu-0", 6)


def snapshot(*, threads: int, files: int, arena: int = 0) -> Snapshot:
    """A server and its one stub, which alone changes."""
    held = {SERVER: Held(30, 40, 1), STAGE: Held(threads, files, 1)}
    return Snapshot(held, {SERVER: frozenset({STAGE})}, {"m_dispatch": arena}, shm_files=1, regions=2)


def test_the_largest_growth_of_any_process_counts() -> None:
    """A process that holds less makes up for nothing."""
    found = growth(snapshot(threads=5, files=9), snapshot(threads=7, files=8, arena=64))
    assert (found.threads, found.files, found.arena_bytes, found.leaked) == (2, 0, 64, 66)
    assert found.grown == (
        "m.p0.s0.w0: 5 to 7 threads, 9 to 8 files",
        "m_dispatch: 64 bytes of shared memory not given back",
    )


def test_where_no_process_is_left_nothing_has_grown() -> None:
    """All were restarted in between."""
    found = growth(Snapshot({}, {}, {}, 0, 0), snapshot(threads=5, files=9))
    assert (found.processes, found.threads, found.files) == (0, 0, 0)
