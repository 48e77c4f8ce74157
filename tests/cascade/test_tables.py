"""Another plan's parts of the SLO for a cascade that is served: when they count, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from planner.cascades.served import CascadeEntry
from planner.manifest import DeploymentManifest, EntryPorts
from planner.private_folder import PrivateFolder
from planner.revision import Ack, HandOver, ack_name, hand_over, read_acks, write_ack
from python_backend.cascade.tables import CascadeTable, CascadeTables, check_cascade, table_at_start
from tests.cascade.test_parent import CASCADE, MANIFEST

MODELS = [member.model for member in CASCADE.members]


SERVED = replace(MANIFEST, cascades=(CASCADE,))


def two_entries(manifest: DeploymentManifest) -> DeploymentManifest:
    """The same with an entry "b" beside its own."""
    ports = {model.model: 30_001 + number for number, model in enumerate(manifest.models)}
    return replace(manifest, more_entries=(EntryPorts(replace(manifest.entry, name="b"), ports),))


def with_detector(part_us: int, epoch: int = 2) -> DeploymentManifest:
    """Another plan's, whose detector has this part, and what follows it the rest."""
    parts = dict.fromkeys(MODELS, (300_000 - part_us) // 2) | {"detector": part_us}
    return replace(MANIFEST, epoch=epoch, cascades=(CASCADE.with_parts(parts),))


def by_us(cascade: CascadeEntry) -> int:
    return cascade.member("detector").by_us


class Watching:
    """A cascade whose members' acks this writes. start: what it serves by, as its entry sees it."""

    def __init__(self, folder: Path, start: DeploymentManifest = SERVED) -> None:
        folder.chmod(0o700)
        self.folder = folder
        self.parts = [by_us(CASCADE)]
        self.said: list[str] = []
        self.manifest = start
        start = CascadeTable(0, start, start.cascade("street"))
        private = PrivateFolder(folder)
        serve = lambda cascade: self.parts.append(by_us(cascade))  # noqa: E731
        self.tables = CascadeTables(private, start, serve, self.said.append)
        self.tables.look()

    def members_serve(self, number: int, models: list[str] = MODELS) -> None:
        for model in models:
            self.member_serves(number, model, self.manifest.entry.name)

    def member_serves(self, number: int, model: str, entry: str) -> None:
        name = ack_name(self.manifest, entry, self.manifest.model(model).dispatcher)
        write_ack(self.folder, Ack(name, "run", number, 2, ""))

    @property
    def ack(self) -> Ack:
        name = ack_name(self.manifest, self.manifest.entry.name, "street")
        return read_acks(self.folder, [name])[name]


@pytest.mark.parametrize("part_us", [50_000, 200_000])
def test_until_all_members_have_the_table_a_member_has_the_longer_part(tmp_path: Path, part_us: int) -> None:
    before = by_us(CASCADE)
    seen = Watching(tmp_path)
    hand_over(tmp_path, HandOver(4, with_detector(part_us)))
    seen.tables.look()
    assert seen.parts[-1] == max(before, part_us)
    seen.members_serve(4, MODELS[:-1])
    seen.tables.look()
    assert (seen.parts[-1], seen.ack.number) == (max(before, part_us), 0)
    seen.members_serve(4)
    seen.tables.look()
    assert (seen.parts[-1], seen.ack.number, seen.ack.revision) == (part_us, 4, 2)
    assert seen.ack.is_over(4)


def test_a_rollout_that_turns_back_half_way_ends_with_the_old_parts(tmp_path: Path) -> None:
    seen = Watching(tmp_path)
    hand_over(tmp_path, HandOver(1, with_detector(200_000)))
    seen.tables.look()
    seen.members_serve(1, MODELS[:2])
    seen.tables.look()
    hand_over(tmp_path, HandOver(2, replace(MANIFEST, cascades=(CASCADE,))))
    seen.tables.look()
    assert seen.parts[-1] == 200_000, "some members may still serve by it"
    seen.members_serve(2)
    seen.tables.look()
    assert (seen.parts[-1], seen.ack.number) == (by_us(CASCADE), 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slo_us": 7}, "cascades.street.slo_us is 7 where 300000 is served"),
        ({"members": CASCADE.members[:2]}, "cascades.street.members is"),
        ({"in_order": True}, "cascades.street.in_order is True"),
        ({"name": "road"}, "it has no cascade 'street', which is served here"),
    ],
)
def test_what_clients_would_notice_is_refused_and_changes_nothing(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    seen = Watching(tmp_path)
    table = replace(MANIFEST, cascades=(replace(CASCADE, **change),))  # type: ignore[arg-type]
    hand_over(tmp_path, HandOver(3, table))
    seen.members_serve(3)
    seen.tables.look()
    assert (seen.ack.number, seen.ack.refused) == (0, 3)
    assert said in seen.ack.reason
    assert seen.parts == [by_us(CASCADE)]
    with pytest.raises(ValueError, match="deployment is 'other'"):
        check_cascade(replace(table, deployment="other"), MANIFEST.deployment, CASCADE)


def test_one_that_starts_serves_by_the_last_table(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    folder = PrivateFolder(tmp_path)
    manifest = replace(MANIFEST, cascades=(CASCADE,))
    said: list[str] = []
    assert table_at_start(None, manifest, CASCADE, said.append).number == 0
    assert table_at_start(folder, manifest, CASCADE, said.append).number == 0
    hand_over(tmp_path, HandOver(9, with_detector(70_000)))
    found = table_at_start(folder, manifest, CASCADE, said.append)
    assert (found.number, by_us(found.cascade)) == (9, 70_000)
    assert said == []
    (tmp_path / "table.json").write_text("{")
    assert table_at_start(folder, manifest, CASCADE, said.append).number == 0
    assert "serves by deployment.json" in said[0]
    folder.close()


@pytest.mark.parametrize("me", [MANIFEST.entry.name, "b"])
def test_each_entry_answers_for_itself_once_its_own_members_serve(tmp_path: Path, me: str) -> None:
    seen = Watching(tmp_path, two_entries(SERVED).seen_from(me))
    (other,) = {MANIFEST.entry.name, "b"} - {me}
    hand_over(tmp_path, HandOver(4, two_entries(with_detector(200_000))))
    for model in MODELS:
        seen.member_serves(4, model, other)
    seen.tables.look()
    assert (seen.ack.dispatcher, seen.ack.number, seen.said) == (f"street@{me}", 0, [])
    assert read_acks(tmp_path, ["street", f"street@{other}"]) == {}
    seen.members_serve(4)
    seen.tables.look()
    assert (seen.ack.number, seen.parts[-1]) == (4, 200_000)


def test_an_entry_that_a_table_has_no_more_refuses_it(tmp_path: Path) -> None:
    seen = Watching(tmp_path, two_entries(SERVED).seen_from("b"))
    hand_over(tmp_path, HandOver(3, with_detector(200_000)))
    seen.tables.look()
    assert seen.ack.refused == 3
    assert seen.ack.reason == f"its entries are {MANIFEST.entry.name}; this one is 'b'"


def test_one_that_starts_at_another_entry_serves_by_the_last_table(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    hand_over(tmp_path, HandOver(9, two_entries(with_detector(70_000))))
    served = two_entries(SERVED).seen_from("b")
    folder = PrivateFolder(tmp_path)
    said: list[str] = []
    found = table_at_start(folder, served, served.cascade("street"), said.append)
    assert (found.number, by_us(found.cascade), found.manifest.entry.name, said) == (9, 70_000, "b", [])
    folder.close()


def test_parts_add_up_along_the_way_and_are_no_longer_than_the_slo() -> None:
    parts = {"detector": 200_000, "kinds": 90_000, "plates": 60_000, "letters": 90_000}
    found = CASCADE.with_parts(parts)
    assert [member.by_us for member in found.members] == [200_000, 290_000, 260_000, 300_000]
