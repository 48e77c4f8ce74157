"""What is needed of /dev/shm, and that nothing is started where it is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ppipe.serving.shm_room import least_bytes, shm_bytes_per_stub
from python_backend.wire.shm.layout import sizes_of_server
from tests.live.handmade import write_deployment
from tests.wire.test_shm_hops import manifest

MIB = 1 << 20


def test_a_stub_gets_what_there_is(tmp_path: Path) -> None:
    servers = manifest().servers
    assert MIB <= shm_bytes_per_stub(servers, tmp_path) <= 32 * MIB
    crowd = [replace(servers[0], models=("m",) * 10**7)]
    assert shm_bytes_per_stub(crowd, tmp_path) == MIB


def test_what_is_needed_is_regions_batches_and_files() -> None:
    made = manifest()
    servers = (*made.servers, made.entry)
    regions = MIB * sum(len(server.models) for server in servers)
    files = sum(sizes_of_server(made, server.name) for server in servers)
    batches = sum(
        program.max_batch_size
        * sum(spec.bytes_per_frame for spec in (*program.inputs, *program.outputs))
        * len(stage.workers)
        for entry in made.models
        for programs, pipeline in zip(entry.programs, entry.served.pipelines, strict=True)
        for program, stage in zip(programs, pipeline.stages, strict=True)
    )
    assert files > MIB
    assert batches > MIB
    assert least_bytes(made, servers) == regions + files + batches
    assert least_bytes(made, made.servers[:1]) < least_bytes(made, servers), "of the servers that are started"


def test_a_nearly_full_shared_memory_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """On a real /dev/shm of 2 MiB, in a mount namespace of its own."""
    write_deployment(tmp_path / "repository", [20_001 + port for port in range(9)])
    mount = 'mount -t tmpfs -o size=2m none /dev/shm || exit 77; exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    serve = [sys.executable, "-m", "ppipe", "serve", str(tmp_path / "repository")]
    work = ["--work", str(tmp_path / "work")]
    try:
        done = subprocess.run(
            [*command, *serve, *work],
            cwd=Path(__file__).parents[2], env={**os.environ, "COLUMNS": "80"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("no unshare here to mount a small /dev/shm with")
    if done.returncode == 77 or "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"no small /dev/shm can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 1, done.stderr
    assert "/dev/shm has 2 MiB left, and 3 MiB are needed for 3 Triton models" in done.stderr
    assert "--shm-size" in done.stderr
    assert "loading models" not in done.stdout
