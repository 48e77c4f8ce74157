"""Who owns a shard when: every rule of the state machine, and hypothesis against its promises."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_backend.leases.keeper import LeaseKeeper
from python_backend.leases.lease import Lease, StoreUnreachable, Swap
from python_backend.leases.ownership import LeaseTimes, Ownership

TIMES = LeaseTimes()
LOOK_US = TIMES.look_us
SHARDS = {"m/0": ("a", "b", "c"), "m/1": ("b", "c", "a")}
PRESENCE = "m/at/"


class Store:
    """Compare and swap, and nothing else."""

    def __init__(self) -> None:
        self.leases: dict[str, Lease] = {}

    def swap(self, swap: Swap) -> bool:
        if self.leases.get(swap.new.name) != swap.seen:
            return False
        self.leases[swap.new.name] = swap.new
        return True


class Fleet:
    """Entries that look at one store, each on its own clock."""

    def __init__(self, names: str = "abc", skew_us: int = 0) -> None:
        self.store = Store()
        self.now_us = 0
        self.runs = 0
        self.entries: dict[str, Ownership] = {}
        self.skew_us = {name: skew_us * index for index, name in enumerate(names)}
        self.cut_off: set[str] = set()
        self.held: dict[tuple[str, int], set[tuple[str, int]]] = defaultdict(set)
        """Who ever owned which shard in which term, as (entry, run)."""
        for name in names:
            self.start(name)

    def start(self, name: str) -> None:
        self.runs += 1
        self.entries[name] = Ownership(name, str(self.runs), SHARDS, PRESENCE)

    def kill(self, name: str) -> None:
        del self.entries[name]

    def look(self, name: str) -> None:
        entry, clock_us = self.entries[name], self.now_us + self.skew_us[name]
        if name in self.cut_off:
            entry.unreachable()
        else:
            for swap in entry.looked(dict(self.store.leases), clock_us, clock_us):
                entry.swapped(swap, self.store.swap(swap), clock_us)
        for shard, term in entry.owned.items():
            self.held[shard, term].add((name, entry._run))

    def run(self, us: int) -> None:
        """Everybody looks, in turn, for so long."""
        end_us = self.now_us + us
        while self.now_us < end_us:
            for name in sorted(self.entries):
                self.look(name)
            self.now_us += LOOK_US

    def owners(self, shard: str) -> list[str]:
        return sorted(name for name, entry in self.entries.items() if shard in entry.owned)

    def until(self, shard: str, owners: list[str], within_us: int) -> int:
        """How long it takes until these own it."""
        began_us = self.now_us
        while self.owners(shard) != owners:
            assert self.now_us - began_us <= within_us, f"{self.owners(shard)} after {within_us} us"
            self.run(LOOK_US)
        return self.now_us - began_us


@pytest.fixture
def fleet() -> Fleet:
    made = Fleet()
    made.run(2_000_000)
    return made


def test_every_home_takes_its_own_at_once() -> None:
    fleet = Fleet()
    fleet.run(LOOK_US)
    assert (fleet.owners("m/0"), fleet.owners("m/1")) == (["a"], ["b"])


def test_the_shard_of_one_that_is_gone_is_adopted_by_the_next_within_one_and_a_half_seconds(
    fleet: Fleet,
) -> None:
    fleet.kill("a")
    assert fleet.until("m/0", ["b"], 1_500_000) >= TIMES.term_us - LOOK_US
    assert fleet.owners("m/1") == ["b"]


def test_the_next_but_one_adopts_where_the_next_is_gone_too(fleet: Fleet) -> None:
    fleet.kill("a")
    fleet.kill("b")
    fleet.until("m/0", ["c"], 1_500_000 + TIMES.step_us)


def test_it_is_given_back_within_five_seconds_and_is_nobodys_at_no_time(fleet: Fleet) -> None:
    fleet.kill("a")
    fleet.until("m/0", ["b"], 1_500_000)
    fleet.start("a")
    began_us = fleet.now_us
    while fleet.owners("m/0") != ["a"]:
        assert fleet.owners("m/0"), "somebody owns it all the time"
        assert fleet.now_us - began_us < 5_000_000
        fleet.run(LOOK_US)
    assert fleet.entries["a"].owned["m/0"] == 3


def test_one_that_comes_back_before_its_lease_has_run_out_takes_it_with_a_higher_term(fleet: Fleet) -> None:
    fleet.kill("a")
    fleet.start("a")
    fleet.run(2 * LOOK_US)
    assert fleet.owners("m/0") == ["a"]
    assert fleet.entries["a"].owned["m/0"] == 2


def test_while_the_store_is_away_owners_own_and_nobody_adopts(fleet: Fleet) -> None:
    fleet.cut_off = {"a", "b", "c"}
    fleet.run(20_000_000)
    assert (fleet.owners("m/0"), fleet.owners("m/1")) == (["a"], ["b"])
    fleet.cut_off = set()
    fleet.run(3_000_000)
    assert fleet.entries["a"].owned == {"m/0": 1}
    assert fleet.entries["b"].owned == {"m/1": 1}


def test_one_that_died_while_the_store_was_away_is_adopted_a_whole_term_after_it_is_back(
    fleet: Fleet,
) -> None:
    fleet.cut_off = {"a", "b", "c"}
    fleet.run(2_000_000)
    fleet.kill("a")
    fleet.run(10_000_000)
    fleet.cut_off = set()
    assert fleet.until("m/0", ["b"], 2_000_000) >= TIMES.term_us


def test_a_slow_store_is_no_store(fleet: Fleet) -> None:
    """Each answer takes longer than the longest gap: whatever it shows, nobody adopts."""
    fleet.kill("a")
    entry = fleet.entries["b"]
    for _ in range(20):
        asked_us = fleet.now_us
        fleet.now_us += TIMES.gap_us + 1
        swaps = entry.looked(dict(fleet.store.leases), asked_us, fleet.now_us)
        assert [swap for swap in swaps if swap.new.name == "m/0"] == []


def test_an_owner_that_the_store_does_not_reach_is_adopted_and_yields_when_a_worker_refuses_it(
    fleet: Fleet,
) -> None:
    fleet.cut_off = {"a"}
    fleet.run(3_000_000)
    assert fleet.owners("m/0") == ["a", "b"]
    fleet.entries["a"].refused("m/0", fleet.entries["b"].owned["m/0"])
    assert fleet.owners("m/0") == ["b"]
    fleet.run(3_000_000)
    assert fleet.owners("m/0") == ["b"], "it does not come back by itself"
    fleet.cut_off = set()
    fleet.until("m/0", ["a"], 5_000_000)


def test_a_worker_that_refuses_a_term_that_is_over_changes_nothing(fleet: Fleet) -> None:
    fleet.entries["a"].refused("m/0", 1)
    assert fleet.owners("m/0") == ["a"]


def test_a_store_that_lost_everything_gets_higher_terms_from_the_same_owners(fleet: Fleet) -> None:
    fleet.store.leases.clear()
    fleet.run(2_000_000)
    assert fleet.entries["a"].owned == {"m/0": 2}
    assert fleet.entries["b"].owned == {"m/1": 2}


def test_one_that_ends_in_order_leaves_its_shard_to_the_next_at_once(fleet: Fleet) -> None:
    for swap in fleet.entries["a"].give_up():
        assert fleet.store.swap(swap)
    fleet.kill("a")
    assert fleet.until("m/0", ["b"], 1_000_000) < TIMES.term_us


def test_one_that_reaches_no_worker_takes_nothing(fleet: Fleet) -> None:
    fleet.entries["b"].ready = False
    fleet.run(2_000_000)
    fleet.kill("a")
    fleet.until("m/0", ["c"], 1_500_000 + TIMES.step_us)
    assert fleet.owners("m/1") == ["c"], "what it owned is with who reaches workers"


def test_who_is_in_no_order_owns_nothing() -> None:
    fleet = Fleet()
    fleet.entries = {"d": Ownership("d", "9", SHARDS, PRESENCE)}
    fleet.skew_us["d"] = 0
    fleet.run(5_000_000)
    assert fleet.entries["d"].owned == {}


EVENTS = ("look", "look", "look", "look", "look", "cut", "mend", "kill", "start", "pause", "refuse", "late")


@settings(max_examples=80)
@given(seed=st.integers(0, 2**32), steps=st.integers(50, 400))
def test_no_term_has_two_holders_and_terms_only_grow(seed: int, steps: int) -> None:
    """Entries look when they like, pause, die, are cut off; swaps come late, or nobody hears of them."""
    rng = random.Random(seed)
    fleet = Fleet(skew_us=3_600_000_000)
    late: list[Swap] = []
    highest: dict[str, int] = defaultdict(int)
    for _ in range(steps):
        event, name = rng.choice(EVENTS), rng.choice("abc")
        if event == "start" and name not in fleet.entries:
            fleet.start(name)
        elif name not in fleet.entries:
            pass
        elif event == "look":
            fleet.now_us += rng.randint(0, LOOK_US)
            fleet.look(name)
        elif event == "cut":
            fleet.cut_off.add(name)
        elif event == "mend":
            fleet.cut_off.clear()
        elif event == "kill":
            fleet.kill(name)
        elif event == "pause":
            fleet.now_us += rng.randint(0, 3 * TIMES.term_us)
        elif event == "refuse":
            shard = rng.choice(list(SHARDS))
            lease = fleet.store.leases.get(shard)
            fleet.entries[name].refused(shard, 0 if lease is None else lease.term)
        elif name not in fleet.cut_off:  # late: what it decides reaches the store some time later, or twice
            clock_us = fleet.now_us + fleet.skew_us[name]
            late += fleet.entries[name].looked(dict(fleet.store.leases), clock_us, clock_us)
        for swap in [swap for swap in late if rng.random() < 0.3]:
            fleet.store.swap(swap)
            late.remove(swap)
        for shard in SHARDS:
            term = fleet.store.leases[shard].term if shard in fleet.store.leases else 0
            assert term >= highest[shard], "terms only grow"
            highest[shard] = term
    assert all(len(holders) == 1 for holders in fleet.held.values()), "one holder for each term"


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), away_us=st.integers(0, 60_000_000))
def test_whatever_the_time_that_the_store_is_away_nothing_changes_hands(seed: int, away_us: int) -> None:
    rng = random.Random(seed)
    fleet = Fleet()
    fleet.run(2_000_000)
    before = {name: entry.owned for name, entry in fleet.entries.items()}
    fleet.cut_off = set("abc")
    for name in "abc":
        fleet.look(name)
    fleet.now_us += away_us
    fleet.cut_off.clear()
    for _ in range(60):
        names = list("abc")
        rng.shuffle(names)
        for name in names:
            fleet.now_us += rng.randint(0, LOOK_US // 2)
            fleet.look(name)
    assert {name: entry.owned for name, entry in fleet.entries.items()} == before


def reorder(fleet: Fleet, orders: dict[str, tuple[str, ...]]) -> None:
    """Each hears of it at another time, as from tables that are handed over."""
    for name, entry in fleet.entries.items():
        for swap in entry.reorder(orders):
            fleet.store.swap(swap)
        fleet.run(LOOK_US)
        assert fleet.entries[name] is entry


def test_another_plan_has_other_shards(fleet: Fleet) -> None:
    term = fleet.store.leases["m/0"].term
    reorder(fleet, {"m/0": ("c", "a", "b")})
    assert not fleet.store.leases["m/1"].holder, "given up: it is no more"
    fleet.until("m/0", ["c"], 5_000_000)
    assert fleet.store.leases["m/0"].term > term
    reorder(fleet, SHARDS)
    fleet.until("m/0", ["a"], 5_000_000)
    fleet.until("m/1", ["b"], 5_000_000)
    assert all(len(holders) == 1 for holders in fleet.held.values()), "one holder for each term"


def test_a_shard_that_comes_again_is_adopted_no_sooner_than_one_that_was_there(fleet: Fleet) -> None:
    reorder(fleet, {"m/0": SHARDS["m/0"]})
    fleet.run(10_000_000)
    fleet.entries["a"].reorder(SHARDS)
    fleet.store.leases["m/1"] = Lease("m/1", "b", "anew", 9, 1)
    fleet.look("a")
    assert "m/1" not in fleet.entries["a"].owned, "somebody may have taken it just now"


def test_who_reaches_no_worker_leaves_its_shards_to_who_does(fleet: Fleet) -> None:
    fleet.entries["a"].ready = False
    fleet.until("m/0", ["b"], 4_000_000)
    fleet.run(5_000_000)
    assert fleet.owners("m/0") == ["b"]
    fleet.entries["a"].ready = True
    fleet.until("m/0", ["a"], 5_000_000)


def test_when_nobody_reaches_a_worker_nothing_changes_hands(fleet: Fleet) -> None:
    before = {name: entry.owned for name, entry in fleet.entries.items()}
    for entry in fleet.entries.values():
        entry.ready = False
    fleet.run(10_000_000)
    assert {name: entry.owned for name, entry in fleet.entries.items()} == before


@pytest.mark.parametrize("away", [True, False])
def test_a_shard_that_goes_is_given_up_though_the_store_is_away_or_a_renewal_under_way(away: bool) -> None:
    class Late(Store):
        """`meanwhile` is done once, when a swap is asked for."""

        def __init__(self) -> None:
            super().__init__()
            self.meanwhile: list[Callable[[], None]] = []

        def look(self, prefix: str) -> dict[str, Lease]:
            return dict(self.leases)

        def swap_all(self, swaps: Sequence[Swap]) -> list[bool]:
            if self.meanwhile:
                self.meanwhile.pop()()
            return [self.swap(swap) for swap in swaps]

        def close(self) -> None:
            pass

    def fail() -> None:
        raise StoreUnreachable("away")

    store, now_us = Late(), [0]
    keeper = LeaseKeeper(store, "a", "m/", {"0": ("a",), "1": ("a",)}, lambda: now_us[0])

    def look(times: int) -> None:
        for _ in range(times):
            keeper.look()
            now_us[0] += LOOK_US

    look(8)
    assert keeper.owned == {"0": 1, "1": 1}
    if away:
        keeper.reorder({"0": ("a",)})
    store.meanwhile = [fail if away else lambda: keeper.reorder({"0": ("a",)})]
    look(40)
    assert store.meanwhile == []
    assert keeper.owned == {"0": 1}
    assert store.leases["m/1"].holder == ""
