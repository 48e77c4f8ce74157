"""Whatever goes wrong, the old repository is whole, and nothing that is not ours is touched."""

import os
import shutil
from pathlib import Path

import pytest

from model_repo_generator.writing import write as writing
from model_repo_generator.writing.exchange import _exchange_by_steps, exchange
from model_repo_generator.writing.write import LISTING, FileCopy, WriteFault, read_listing, write

OLD = {"deployment.json": "{}\n", "groups/fast/net.p0.s0.w0/1/model.py": "old\n"}
NEW = {"deployment.json": "{1}\n", "groups/slow/net.p0.s0.w0/1/model.py": "new\n"}


def contents(folder: Path) -> dict[str, str]:
    """All files of a folder but the listing."""
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != LISTING
    }


def test_it_writes_exactly_the_files_and_lists_their_hashes(tmp_path: Path) -> None:
    listing = write(OLD, tmp_path / "deep" / "repository")
    assert contents(tmp_path / "deep" / "repository") == OLD
    assert read_listing(tmp_path / "deep" / "repository") == listing
    assert set(listing.files) == set(OLD)
    assert listing.files["deployment.json"].bytes == 3


def test_a_second_write_replaces_the_first_whole(tmp_path: Path) -> None:
    out = tmp_path / "repository"
    write(OLD, out)
    write(NEW, out)
    assert contents(out) == NEW
    assert os.listdir(tmp_path) == ["repository"], "nothing else is left in the parent"


def test_a_folder_with_something_foreign_is_refused_by_name(tmp_path: Path) -> None:
    out = tmp_path / "repository"
    write(OLD, out)
    for foreign in ("notes.txt", "groups/fast/net.p0.s0.w0/weights.bin"):
        (out / foreign).write_text("mine")
        with pytest.raises(WriteFault, match="which ppipe did not write") as fault:
            write(NEW, out, force=True)
        assert foreign in str(fault.value)
        assert contents(out) == OLD | {foreign: "mine"}
        (out / foreign).unlink()


@pytest.mark.parametrize("kind", ["folder", "link to a file", "link to a folder"])
def test_foreign_folders_and_links_are_refused(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "repository"
    write(OLD, out)
    elsewhere = tmp_path / "elsewhere"
    if kind == "folder":
        (out / "empty").mkdir()
    elif kind == "link to a file":
        elsewhere.write_text("mine")
        (out / "empty").symlink_to(elsewhere)
    else:
        elsewhere.mkdir()
        (out / "empty").symlink_to(elsewhere)
    with pytest.raises(WriteFault, match=r"'empty/?'"):
        write(NEW, out, force=True)


def test_a_folder_that_ppipe_never_wrote_is_refused_and_an_empty_one_is_taken(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(WriteFault, match=r"'thesis\.tex'"):
        write(OLD, home, force=True)
    (tmp_path / "empty").mkdir()
    write(OLD, tmp_path / "empty")
    assert contents(tmp_path / "empty") == OLD


def test_an_edited_file_is_overwritten_only_by_force(tmp_path: Path) -> None:
    out = tmp_path / "repository"
    write(OLD, out)
    (out / "deployment.json").write_text("{edited}")
    with pytest.raises(WriteFault, match=r"'deployment\.json' was edited .*; --force"):
        write(NEW, out)
    assert (out / "deployment.json").read_text() == "{edited}"
    write(NEW, out, force=True)
    assert contents(out) == NEW


def test_a_missing_file_and_bytecode_of_our_own_models_are_no_obstacle(tmp_path: Path) -> None:
    out = tmp_path / "repository"
    write(OLD, out)
    cache = out / "groups/fast/net.p0.s0.w0/1/__pycache__"
    cache.mkdir()
    (cache / "model.cpython-311.pyc").write_text("code")
    (out / "deployment.json").unlink()
    write(NEW, out)
    assert contents(out) == NEW


def test_other_bytecode_is_foreign(tmp_path: Path) -> None:
    out = tmp_path / "repository"
    write(OLD, out)
    cache = out / "groups/fast/net.p0.s0.w0/1/__pycache__"
    cache.mkdir()
    (cache / "mine.cpython-311.pyc").write_text("code")
    with pytest.raises(WriteFault, match=r"mine\.cpython"):
        write(NEW, out)


def test_a_full_disk_half_way_leaves_the_old_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "repository"
    write(OLD, out)
    put, done = writing._put, []

    def full(path: Path, content: writing.Content) -> writing.WrittenFile:
        if done:
            raise OSError(28, "No space left on device", str(path))
        done.append(path)
        return put(path, content)

    monkeypatch.setattr(writing, "_put", full)
    with pytest.raises(WriteFault, match="No space left on device"):
        write(NEW, out)
    assert contents(out) == OLD
    assert os.listdir(tmp_path) == ["repository"]


def test_a_program_that_vanished_leaves_the_old_repository(tmp_path: Path) -> None:
    out = tmp_path / "repository"
    write(OLD, out)
    with pytest.raises(WriteFault, match="unchanged"):
        write({**NEW, "programs/p.pt2": FileCopy(tmp_path / "not there")}, out)
    assert contents(out) == OLD


def test_a_failed_exchange_leaves_the_old_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "repository"
    write(OLD, out)

    def refuse(one: Path, other: Path) -> None:
        raise OSError(30, "Read-only file system", str(other))

    monkeypatch.setattr(writing, "exchange", refuse)
    with pytest.raises(WriteFault, match="Read-only file system"):
        write(NEW, out)
    assert contents(out) == OLD


def test_what_came_into_the_old_folder_during_the_exchange_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "repository"
    write(OLD, out)

    def late(one: Path, other: Path) -> None:
        (other / "late.txt").write_text("mine")
        exchange(one, other)

    monkeypatch.setattr(writing, "exchange", late)
    with pytest.raises(WriteFault, match=r"'late\.txt' came into it meanwhile"):
        write(NEW, out)
    assert contents(out) == NEW
    (kept,) = tmp_path.glob("*-kept")
    assert (kept / "late.txt").read_text() == "mine"


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    abandoned = tmp_path / ".repository.ppipe-new-abc"
    abandoned.mkdir()
    (abandoned / "half.txt").write_text("")
    write(OLD, tmp_path / "repository")
    assert os.listdir(tmp_path) == ["repository"]


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../b", "a//b", "", ".", LISTING])
def test_no_path_leaves_the_repository(tmp_path: Path, path: str) -> None:
    with pytest.raises(WriteFault, match="not a path inside"):
        write({path: "text"}, tmp_path / "repository")
    assert os.listdir(tmp_path) == []


def test_a_damaged_listing_is_no_licence(tmp_path: Path) -> None:
    out = tmp_path / "repository"
    write(OLD, out)
    (out / LISTING).write_text("{")
    with pytest.raises(WriteFault, match="damaged"):
        write(NEW, out, force=True)
    assert contents(out) == OLD


def test_a_program_is_taken_from_its_file(tmp_path: Path) -> None:
    source = tmp_path / "export.pt2"
    source.write_bytes(b"program")
    listing = write({"programs/net.b0-1.pt2": FileCopy(source)}, tmp_path / "repository")
    assert (tmp_path / "repository/programs/net.b0-1.pt2").read_bytes() == b"program"
    assert listing.files["programs/net.b0-1.pt2"].sha256 == writing.hash_file(source)


def test_where_folders_cannot_be_exchanged_at_once_three_renames_do(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    _exchange_by_steps(tmp_path / "one", tmp_path / "other")
    assert os.listdir(tmp_path / "one") == ["other"]
    assert os.listdir(tmp_path / "other") == ["one"]
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(OSError, match="one"):
        _exchange_by_steps(tmp_path / "one", tmp_path / "other")
    assert os.listdir(tmp_path / "other") == ["one"], "undone"
