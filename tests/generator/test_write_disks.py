"""Real disks that are full or read-only: the old repository stays whole and the message says why.

They are mounted in a namespace of their own, which not every machine lets a test make.
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from pathlib import Path
from model_repo_generator.writing.write import WriteFault, edited_paths, foreign_paths, read_listing, write
disk = Path(sys.argv[1])
out = disk / "repository"
old = {"deployment.json": "old", "groups/fast/net/1/model.py": "old"}
write(old, out)
%s
try:
    write({"a.json": "new", "deployment.json": "new", "programs/net.pt2": b"x" * 1_000_000}, out)
except WriteFault as fault:
    print(fault)
else:
    sys.exit("nothing stopped it")
listing = read_listing(out)
assert set(listing.files) == set(old), listing
assert not list(foreign_paths(out, listing.files)) and not list(edited_paths(out, listing.files))
assert [path.name for path in disk.iterdir()] == ["repository"], list(disk.iterdir())
"""
READ_ONLY = "import os, subprocess; subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)"


def on_a_small_disk(program: str, folder: Path) -> str:
    """What `program` prints; its argument is a disk of 256 KiB. Skips where none can be mounted."""
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    script = 'mount -t tmpfs -o size=256k none "$1" || exit 77; exec "$2" -c "$3" "$1"'
    try:
        done = subprocess.run(
            [*mount, script, "sh", str(folder), sys.executable, program],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("no unshare here to mount a disk with")
    if done.returncode == 77 or "unshare failed" in done.stderr or "Operation not permitted" in done.stderr:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk(tmp_path: Path) -> None:
    said = on_a_small_disk(PROGRAM % "", tmp_path)
    assert "not written, what was there is unchanged: No space left on device" in said


def test_a_read_only_disk(tmp_path: Path) -> None:
    said = on_a_small_disk(PROGRAM % READ_ONLY, tmp_path)
    assert "not written, what was there is unchanged: Read-only file system" in said
