"""Another plan's parts of the SLO for a cascade that is served: when they count, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from planner.cascades.served import CascadeEntry
from planner.manifest import DeploymentManifest
from planner.private_folder import PrivateFolder
from planner.revision import Ack, HandOver, hand_over, read_acks, write_ack
from python_backend.cascade.tables import CascadeTable, CascadeTables, check_cascade, table_at_start
from tests.cascade.test_parent import CASCADE, MANIFEST

MODELS = [member.model for member in CASCADE.members]


def with_detector(part_us: int, epoch: int = 2) -> DeploymentManifest:
    """Another plan's, whose detector has this part, and what follows it the rest."""
    parts = dict.fromkeys(MODELS, (300_000 - part_us) // 2) | {"detector": part_us}
    return replace(MANIFEST, epoch=epoch, cascades=(CASCADE.with_parts(parts),))


def by_us(cascade: CascadeEntry) -> int:
    return cascade.member("detector").by_us


class Watching:
    """A cascade whose members' acks this writes."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o700)
        self.folder = folder
        self.parts = [by_us(CASCADE)]
        self.said: list[str] = []
        start = CascadeTable(0, replace(MANIFEST, cascades=(CASCADE,)), CASCADE)
        private = PrivateFolder(folder)
        serve = lambda cascade: self.parts.append(by_us(cascade))  # noqa: E731
        self.tables = CascadeTables(private, start, serve, self.said.append)
        self.tables.look()

    def members_serve(self, number: int, models: list[str] = MODELS) -> None:
        for model in models:
            write_ack(self.folder, Ack(MANIFEST.model(model).dispatcher, "run", number, 2, ""))

    @property
    def ack(self) -> Ack:
        return read_acks(self.folder, ["street"])["street"]


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


def test_parts_add_up_along_the_way_and_are_no_longer_than_the_slo() -> None:
    parts = {"detector": 200_000, "kinds": 90_000, "plates": 60_000, "letters": 90_000}
    found = CASCADE.with_parts(parts)
    assert [member.by_us for member in found.members] == [200_000, 290_000, 260_000, 300_000]
