"""What a rollout asks for through a shared folder is done by the agents of the servers, and nothing else."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from model_repo_generator.kubernetes.container import agent as agents
from model_repo_generator.kubernetes.container.agent import Agent
from planner.revision import Ack, HandOver, hand_over, read_acks, read_hand_over, run_of, write_ack
from ppipe.serving.fleet_agents import FleetAgents
from ppipe.serving.launcher import make_own
from ppipe.serving.polled_folder import NoSuchModel
from ppipe.serving.server_models import AskedModels
from tests.dispatcher.test_driver import manifest


class Models:
    """Of a server that has everything but 'missing'; processes end when they are told to."""

    def __init__(self, *there: str) -> None:
        self.there = set(there)
        self.ending: set[str] = set()

    def models(self) -> set[str]:
        return set(self.there)

    def processes(self) -> set[str]:
        return self.there | self.ending

    def add(self, names: Iterable[str]) -> None:
        for name in names:
            if name == "missing":
                raise NoSuchModel("the repository of this host has no model 'missing'")
            self.there.add(name)

    def remove(self, names: Iterable[str]) -> None:
        self.ending |= set(names) & self.there
        self.there -= set(names)

    def mark(self) -> int:
        return 0

    def said(self, since: int) -> list[str]:
        return [f"E0101 failed to load {name}" for name in sorted(self.there) if name.startswith("bad")]


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    return tmp_path / "fleet"


def test_what_is_asked_is_done_and_said(fleet: Path) -> None:
    here = Models("a", "b")
    agent = Agent(fleet, "s", here, "g")
    agent.look()
    asked = AskedModels(fleet, "s", "g")
    assert (asked.models(), asked.processes()) == ({"a", "b"}, {"a", "b"})
    asked.add(["c", "missing", "bad"])
    assert asked.models() == {"a", "b", "c", "missing", "bad"}, "it is to have them"
    assert asked.said(0) == [], "nothing is known yet"
    agent.look()
    assert here.there == asked.models() == {"a", "b", "c", "bad"}
    assert asked.said(asked.mark()) == [
        "E0101 failed to load bad",
        "missing: the repository of this host has no model 'missing'",
    ]
    asked.remove(["a", "bad"])
    agent.look()
    assert asked.models() == {"b", "c"}
    assert asked.processes() == {"a", "b", "bad", "c"}, "their memory is not free yet"
    here.there.add("by hand")
    agent.look()
    assert asked.models() == {"b", "c", "by hand"}, "whoever changed it"
    here.there.remove("by hand")
    here.ending.clear()
    agent._tell_at_s = 0.0
    agent.look()
    assert asked.processes() == {"b", "c"}


def test_a_report_from_before_an_order_does_not_say_that_a_model_is_gone(fleet: Path) -> None:
    """The process of a model that was loading when the agent looked began later."""
    here = Models("a", "b")
    agent, asked = Agent(fleet, "s", here, "g"), AskedModels(fleet, "s", "g")
    agent.look()
    told = json.loads((fleet / "there" / "g" / "s.json").read_text())
    (fleet / "there" / "g" / "s.json").write_text(json.dumps({**told, "processes": []}))
    assert asked.processes() == set()
    asked.remove(["b"])
    assert asked.processes() - asked.models() == {"b"}
    here.ending.clear()
    agent.look()
    assert asked.processes() - asked.models() == {"b"}, "its process is ending"
    here.ending.clear()
    agent._tell_at_s = 0.0
    agent.look()
    assert asked.processes() == {"a"}


def test_an_order_that_could_not_be_read_or_done_is_done_later(
    fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Models("a", "b", "c")
    agent, asked = Agent(fleet, "s", here, "g"), AskedModels(fleet, "s", "g")
    agent.look()
    asked.add(["d"])

    def fail(*arguments: object, **named: object) -> str:
        raise OSError("stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", fail)
        agent.look()
    assert here.there == {"a", "b", "c"}
    agent.look()
    assert here.there == {"a", "b", "c", "d"}
    asked.remove(["a", "b"])
    remove = here.remove

    def remove_some(names: list[str]) -> None:
        if "a" in names:
            raise OSError("directory not empty")
        remove(names)

    with monkeypatch.context() as patch:
        patch.setattr(here, "remove", remove_some)
        agent.look()
    assert here.there == {"a", "c", "d"}, "one that cannot be removed keeps no other there"
    assert asked.said(0) == ["a: directory not empty"]
    agent.look()
    assert here.there == {"c", "d"}
    assert asked.said(0) == []


def test_what_was_asked_before_an_agent_began_is_not_done(fleet: Path) -> None:
    """A server that starts has what deployment.json says."""
    agents.make_folder(fleet)
    AskedModels(fleet, "s", "g").add(["old"])
    here = Models("a")
    agent = Agent(fleet, "s", here, "g")
    agent.look()
    assert here.there == {"a"}
    assert AskedModels(fleet, "s", "g").models() == {"a"}
    AskedModels(fleet, "s", "g").add(["new"])
    agent.look()
    assert here.there == {"a", "new"}


@pytest.mark.parametrize("bad", ["../x", "a/b", "", ".hidden"])
def test_names_that_are_no_models_are_refused_whole(
    fleet: Path, bad: str, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Models("a")
    agent = Agent(fleet, "s", here, "g")
    (fleet / "wanted" / "s.json").write_text(json.dumps({"number": 9, "models": ["b", bad]}))
    for _ in range(3):
        agent.look()
    assert here.there == {"a"}
    assert capsys.readouterr().err.count("is no model's name") == 1


def test_a_folder_in_which_others_may_write_is_neither_read_nor_written(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Models("a")
    agent = Agent(fleet, "s", here, "g")
    agent.look()
    asked = AskedModels(fleet, "s", "g")
    asked.add(["b"])
    fleet.chmod(0o777)
    agent.look()
    assert here.there == {"a"}
    assert "expected a folder of user" in capsys.readouterr().err
    with pytest.raises(ValueError, match="mode 777"):
        asked.add(["c"])
    fleet.chmod(0o700)
    agent.look()
    assert here.there == {"a", "b"}


@pytest.mark.parametrize("name", ["wanted", "there"])
@pytest.mark.parametrize("linked", [False, True])
def test_nor_is_one_with_a_folder_in_which_others_may_write(
    fleet: Path, tmp_path: Path, name: str, linked: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Models("a")
    agent = Agent(fleet, "s", here, "g")
    agent.look()
    asked = AskedModels(fleet, "s", "g")
    asked.add(["b"])
    if linked:
        (fleet / name).rename(tmp_path / "away")
        (fleet / name).symlink_to(tmp_path / "away")
    else:
        (fleet / name).chmod(0o770)
    agent.look()
    assert here.there == {"a"}
    assert f"'{name}' in it is of user" in capsys.readouterr().err
    with pytest.raises(ValueError, match=f"'{name}' in it is of user"):
        asked.add(["c"])


def test_what_was_checked_is_what_is_read(fleet: Path, tmp_path: Path) -> None:
    """The folder's name leads to another one as soon as it was checked."""
    agents.make_folder(fleet)
    (fleet / "run").write_text("checked")
    with agents.held(fleet) as checked:
        fleet.rename(tmp_path / "away")
        agents.make_folder(fleet)
        (fleet / "run").write_text("another")
        assert (checked / "run").read_text() == "checked"


GROUPS = {"s": "g", "entry": "entry", "a": "entry", "b": "entry"}


def test_tables_reach_the_entrys_dispatchers_and_their_answers_come_back(fleet: Path, tmp_path: Path) -> None:
    """The entry's agent writes in its own folder alone: who rolls out has the rest."""
    agents.make_folder(fleet, "entry")
    answers = fleet / "there" / "entry"
    hand_over(fleet, HandOver(7, manifest(), "before"))
    write_ack(answers, Ack("m", "before", 7, 1, ""))
    private = tmp_path / "revisions"
    make_own(private)
    every = FleetAgents(fleet, {"s": Models(), "entry": Models()}, GROUPS, ["entry"], private)
    every.look()
    run = run_of(answers)
    assert run == run_of(private) != ""
    assert read_hand_over(fleet, run) is None, "it was of a run before this one"
    assert read_hand_over(private) is None
    assert read_acks(answers, ["m"]) == {}
    write_ack(private, Ack("m", "now", 0, 1, ""))
    every.look()
    assert read_acks(answers, ["m"])["m"].run == "now"
    hand_over(fleet, HandOver(8, manifest(), "before"))
    every.look()
    assert read_hand_over(private) is None, "who rolls out has not heard of the new run yet"
    table = HandOver(1, manifest(), run)
    hand_over(fleet, table)
    every.look()
    assert read_hand_over(private) == read_hand_over(fleet, run) == table
    write_ack(private, Ack("m", "now", 1, 1, ""))
    every.look()
    assert read_acks(answers, ["m"])["m"].number == 1


def test_an_entry_that_joins_others_begins_with_their_table(fleet: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    make_own(first)
    one = FleetAgents(fleet, {"a": Models()}, GROUPS, ["a"], first)
    answers = fleet / "there" / "entry"
    table = HandOver(3, manifest(), run_of(answers))
    hand_over(fleet, table)
    write_ack(first, Ack("m@a", "now", 3, 1, ""))
    one.look()
    make_own(second)
    other = FleetAgents(fleet, {"b": Models(), "s": Models()}, GROUPS, ["b"], second, joins=True)
    other.look()
    assert read_hand_over(second) == read_hand_over(first) == table
    assert run_of(answers) == run_of(first), "the run goes on"
    assert read_acks(answers, ["m@a"])["m@a"].number == 3


def test_an_agent_writes_in_its_own_groups_folder_alone(fleet: Path, tmp_path: Path) -> None:
    """The rest may be mounted to be read: there nothing is made, replaced or removed."""
    agents.make_folder(fleet, "g", "entry")
    private = tmp_path / "revisions"
    make_own(private)
    AskedModels(fleet, "s", "g").add(["old"])
    rest = (fleet, fleet / "wanted", fleet / "there")
    for folder in rest:
        folder.chmod(0o500)
    before = [(sorted(folder.iterdir()), folder.stat().st_mtime_ns) for folder in rest]
    for each in (Agent(fleet, "s", Models("a"), "g"), Agent(fleet, "entry", Models(), "entry", private)):
        each.look()
    assert AskedModels(fleet, "s", "g").processes() >= {"a"}
    assert run_of(fleet / "there" / "entry") == run_of(private)
    assert [(sorted(folder.iterdir()), folder.stat().st_mtime_ns) for folder in rest] == before
    for folder in rest:
        folder.chmod(0o700)


def test_an_entry_is_there_once_it_takes_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert agents.is_there("127.0.0.1", server.getsockname()[1])
    assert not agents.is_there("127.0.0.1", 1)


def test_others_are_looked_for_more_than_once(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def is_there(host: str, port: int) -> bool:
        tried.append(port)
        return len(tried) > 4

    monkeypatch.setattr(agents, "is_there", is_there)
    both = [("north", 1), ("south", 2)]
    assert not agents.others_serve(fleet, "entry", both)
    assert tried == [], "no run was begun here, so there is none to join"
    agents.make_folder(fleet, "entry")
    agents.replace(fleet / "there" / "entry" / "run", "first")
    assert agents.others_serve(fleet, "entry", both)
    assert tried == [1, 2, 1, 2, 1]
    assert not agents.others_serve(fleet, "entry", [])
    monkeypatch.setattr(agents, "is_there", lambda host, port: False)
    assert not agents.others_serve(fleet, "entry", both, within_s=0.2)


@pytest.mark.parametrize("joins", [False, True])
def test_an_entry_that_starts_again_removes_its_own_answers_alone(
    fleet: Path, tmp_path: Path, joins: bool
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    make_own(first)
    make_own(second)
    one = Agent(fleet, "a", Models(), "entry", first)
    answers = fleet / "there" / "entry"
    write_ack(first, Ack("m@a", "now", 3, 1, ""))
    one.look()
    for name in ("m@b", "m@c", "n@b"):
        write_ack(answers, Ack(name, "before", 3, 1, ""))
    other = Agent(fleet, "b", Models(), "entry", second, joins, entries=["b", "c"])
    assert read_acks(answers, ["m@a", "m@b", "m@c", "n@b"]).keys() == {"m@a"}
    assert run_of(answers) == run_of(first if joins else second)
    (answers / "m@a.ack.json").unlink()
    for agent in (one, other):
        agent.look()
    assert read_acks(answers, ["m@a"])["m@a"].number == 3, "what is missing is said again"


def test_a_table_that_could_not_be_copied_is_tried_again(
    fleet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = tmp_path / "revisions"
    make_own(private)
    agent = Agent(fleet, "a", Models(), "entry", private)
    replace = agents.replace

    def full(path: Path, text: str) -> None:
        if path == private / "table.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(path, text)

    table = HandOver(3, manifest(), run_of(private))
    hand_over(fleet, table)
    monkeypatch.setattr(agents, "replace", full)
    agent.look()
    assert read_hand_over(private) is None
    monkeypatch.setattr(agents, "replace", replace)
    agent.look()
    assert read_hand_over(private) == table
    other = HandOver(4, manifest(), "next")
    hand_over(fleet, other)
    agent.look()
    assert read_hand_over(private) == table
    replace(fleet / "there" / "entry" / "run", "next")
    agent.look()
    assert read_hand_over(private) == other, "it is of the run that has begun since"
