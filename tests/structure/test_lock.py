"""requirements.lock: what scripts/setup installs is pinned by hash, and is what constraints.txt says."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s\\]+)", re.MULTILINE)
BY_HOST = {"torch"}
WITHOUT_DEPENDENCIES = {"pytorchcv", "rapidocr-onnxruntime"}


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return {re.sub(r"[-_.]+", "-", found[0]).lower(): found[1] for found in PIN.findall(text)}


def test_every_constraint_is_locked_at_its_version() -> None:
    wanted = {name: version for name, version in pins("constraints.txt").items() if name not in BY_HOST}
    locked = pins("requirements.lock")
    assert set(locked) - set(wanted) == WITHOUT_DEPENDENCIES
    assert {name: locked.get(name) for name in wanted} == wanted, "requirements.lock says how to make it anew"


def test_every_line_of_the_lock_has_hashes() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert len(entries) == len(pins("requirements.lock"))
    for entry in entries:
        head, *hashes = (line.strip().removesuffix("\\").strip() for line in entry.splitlines())
        assert PIN.fullmatch(head), head
        assert hashes, head
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), head


def test_setup_takes_these_by_hash_alone() -> None:
    script = (ROOT / "scripts" / "setup").read_text(encoding="utf-8")
    assert "--require-hashes --no-deps --requirement requirements.lock" in script
