"""A stage worker as its Triton model makes it: what it opens is closed with it."""

from __future__ import annotations

import os
from pathlib import Path

from python_backend.stage.factory import make_stage_worker
from tests.dispatcher.test_driver import manifest


def sockets() -> set[str]:
    """Those that this process has open."""
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(descriptor))
        except FileNotFoundError:
            continue  # of this very listing
    return {link for link in links if link.startswith("socket:")}


def test_no_socket_is_left_open() -> None:
    before = sockets()
    worker = make_stage_worker(manifest(), Path(), "m.p0.s1.w0", "cpu", print)
    assert sockets() - before, "its notices go through one"
    worker.close()
    assert sockets() <= before
