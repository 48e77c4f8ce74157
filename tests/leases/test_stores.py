"""The stores: what all must do alike, in files, in a real etcd and as Lease objects of a small API; an etcd
that ends or stops under load.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.helpers.machines.etcd import Etcd, find_etcd
from planner.leases import LeasesAt
from python_backend.leases.etcd_store import EtcdStore, _pairs
from python_backend.leases.file_store import FileStore
from python_backend.leases.keeper import LeaseKeeper, Owned
from python_backend.leases.kubernetes_store import KubernetesStore
from python_backend.leases.lease import Lease, LeaseStore, StoreUnreachable, Swap
from python_backend.leases.opening import open_store
from python_backend.leases.ownership import LeaseTimes
from python_backend.leases.record_text import from_text, to_text
from python_backend.wire.clock import now_us
from tests.leases.small_api import SmallApi
from tests.waiting import wait_for

MINE = Lease("d/m/0", "a", "run", 1)
SLOW = LeaseTimes(term_us=2_500_000, gap_us=1_500_000)
"""With which a busy machine does not look like an owner that is gone."""
ANSWER_S = 1.2
"""Less than SLOW's gap; a slow disk takes some of it for what is written."""
MakeStore = Callable[[], LeaseStore]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    if find_etcd() is None:
        pytest.skip("no etcd here; scripts/setup unpacks Debian's")
    with Etcd(tmp_path_factory.mktemp("etcd")) as started:
        yield started


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallApi]:
    pytest.importorskip("kubernetes")
    with SmallApi() as started:
        monkeypatch.setenv("KUBECONFIG", str(started.write_config(tmp_path / "kubeconfig")))
        monkeypatch.setenv("PPIPE_NAMESPACE", "street")
        yield started


@pytest.fixture(params=["file", "etcd", "kubernetes"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Stores of the same leases, which no other test has."""
    made: list[LeaseStore] = []

    def new() -> LeaseStore:
        if request.param == "file":
            made.append(FileStore(tmp_path / "leases", lock_s=5.0))
        elif request.param == "kubernetes":
            request.getfixturevalue("api")
            made.append(KubernetesStore(answer_s=5.0))
        else:
            made.append(EtcdStore([request.getfixturevalue("etcd").url], answer_s=5.0))
        return made[-1]

    if request.param == "etcd":
        request.getfixturevalue("etcd").clear()
    yield new
    for store in made:
        store.close()


def test_a_lease_is_what_was_swapped_in_for_everybody(make: MakeStore) -> None:
    one, other = make(), make()
    assert one.look("d/") == {}
    assert one.swap(Swap(None, MINE))
    assert other.look("d/m/") == {MINE.name: MINE}
    assert other.look("e/") == {}
    assert other.swap(Swap(MINE, MINE.renewed()))
    assert one.look("d/") == {MINE.name: MINE.renewed()}


def test_only_what_was_seen_is_swapped(make: MakeStore) -> None:
    one, other = make(), make()
    assert one.swap(Swap(None, MINE))
    assert not other.swap(Swap(None, MINE)), "it is there already"
    assert one.swap(Swap(MINE, MINE.renewed()))
    assert not other.swap(Swap(MINE, MINE.given_up())), "it has changed since"
    assert not other.swap(Swap(Lease("d/m/1", "a", "run", 1), Lease("d/m/1", "b", "run", 2))), "it never was"
    assert one.look("") == {MINE.name: MINE.renewed()}


def test_several_are_swapped_in_order_each_for_itself(make: MakeStore) -> None:
    store = make()
    other = Lease("d/m/1", "b", "run", 1)
    swaps = [Swap(None, MINE), Swap(None, MINE), Swap(MINE, MINE.renewed()), Swap(None, other)]
    assert store.swap_all(swaps) == [True, False, True, True]
    assert store.look("d/m/") == {MINE.name: MINE.renewed(), other.name: other}
    assert store.swap_all([]) == []


def test_of_many_at_once_each_swap_has_one_winner(make: MakeStore) -> None:
    won: list[int] = []

    def count_up(store: LeaseStore) -> None:
        for _ in range(25):
            seen = store.look("d/").get(MINE.name)
            new = MINE if seen is None else seen.renewed()
            if store.swap(Swap(seen, new)):
                won.append(new.beat)

    threads = [threading.Thread(target=count_up, args=(make(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(len(won)))


def test_a_lease_object_says_what_others_say(api: SmallApi) -> None:
    store = KubernetesStore()
    name = "Street of (many) words/model_1/0"
    lease = Lease(name, "entry-0", "run", 3)
    assert store.swap(Swap(None, lease))
    (found,) = api.objects.values()
    assert found["spec"]["holderIdentity"] == "entry-0"
    assert found["spec"]["leaseTransitions"] == 3
    assert found["metadata"]["annotations"]["ppipe/lease"] == name
    assert found["metadata"]["namespace"] == "street"
    assert store.swap(Swap(lease, lease.given_up()))
    (found,) = api.objects.values()
    assert "holderIdentity" not in found["spec"], "an API server refuses an empty one"
    api.objects.clear()
    assert not store.swap(Swap(lease.given_up(), lease)), "it is gone"
    assert store.swap(Swap(None, lease))
    store.close()


def test_an_api_server_that_refuses_or_says_nothing_is_unreachable(api: SmallApi) -> None:
    store, hasty = KubernetesStore(answer_s=5.0), KubernetesStore(answer_s=0.2)
    api.status = 403
    with pytest.raises(StoreUnreachable, match=r"kubernetes: status 403: .*it is not well"):
        store.look("d/m/")
    api.status = 404
    with pytest.raises(StoreUnreachable, match=r"kubernetes: status 404: .*it is not well"):
        store.swap(Swap(None, MINE))  # nothing is made in a namespace that is not there
    api.status = 0
    api.going.clear()
    with pytest.raises(StoreUnreachable, match=r"kubernetes: .*Read timed out"):
        hasty.look("d/m/")
    api.going.set()
    assert store.look("d/m/") == {}
    store.close()
    hasty.close()


def test_no_cluster_is_a_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("PPIPE_NAMESPACE", raising=False)
    at = LeasesAt("kubernetes")
    with pytest.raises(ValueError, match=r"leases\.namespace: not given, PPIPE_NAMESPACE is not set"):
        open_store(at, None)
    pytest.importorskip("kubernetes")
    monkeypatch.setenv("PPIPE_NAMESPACE", "street")
    with pytest.raises(
        ValueError, match=r"no cluster is known here: .*expected a pod with a service account"
    ):
        open_store(at, None)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no cluster is known here"):
        open_store(at, None)
    monkeypatch.setitem(sys.modules, "kubernetes.config", None)
    with pytest.raises(ValueError, match=r"install 'ppipe\[kubernetes\]' in the image of the entries"):
        open_store(at, None)


def test_leases_of_a_file_are_their_users_alone(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "leases")
    store.swap(Swap(None, MINE))
    assert stat.S_IMODE((tmp_path / "leases").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "leases").iterdir()} == {0o600}


def test_a_lock_that_somebody_keeps_makes_the_file_unreachable(tmp_path: Path) -> None:
    store = FileStore(tmp_path, lock_s=0.05)
    descriptor = os.open(tmp_path / "leases.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(StoreUnreachable, match=r"leases\.lock: locked for 0\.05 s"):
        store.look("")
    os.close(descriptor)
    assert store.look("") == {}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"d/m/0": 1}', '{"d/m/0": "{}"}', '{"d/m/0": "[1]"}'])
def test_a_file_that_somebody_else_wrote_is_no_store(tmp_path: Path, text: str) -> None:
    store = FileStore(tmp_path)
    (tmp_path / "leases.json").write_text(text)
    with pytest.raises(StoreUnreachable):
        store.look("")


def test_a_lease_is_read_as_it_was_written() -> None:
    lease = Lease("n", "a", "r", 3, 7, "b")
    assert from_text("n", to_text(lease)) == lease
    with pytest.raises(StoreUnreachable, match="term 'x'; expected holder"):
        from_text("n", to_text(lease).replace('"term":3', '"term":"x"'))


@pytest.mark.parametrize(
    "url", ["10.0.0.5:2379", "http://", "http://a", "ftp://a:1", "http://a:b", "http://a:1/v3"]
)
def test_an_endpoint_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected a URL such as"):
        EtcdStore([url])
    with pytest.raises(ValueError, match="no endpoint"):
        EtcdStore([])


def test_members_that_do_not_answer_are_passed_over(etcd: Etcd) -> None:
    etcd.clear()
    store = EtcdStore(["http://127.0.0.1:1", etcd.url], answer_s=5.0)
    assert store.swap(Swap(None, MINE))
    assert store.look("") == {MINE.name: MINE}
    store.close()
    with pytest.raises(StoreUnreachable, match=r"http://127\.0\.0\.1:1: .*refused"):
        EtcdStore(["http://127.0.0.1:1"]).look("")


class Entry:
    """A keeper of entry `name` and everything that it ever owned."""

    def __init__(self, name: str, store: LeaseStore) -> None:
        self.history: list[Owned] = []
        self.said: list[str] = []
        orders = {"0": ("a", "b"), "1": ("b", "a")}
        self.keeper = LeaseKeeper(
            store, name, "d/m/", orders, now_us, changed=self.history.append, times=SLOW, log=self.said.append
        )
        self.keeper.start()

    def wait_for(self, owned: dict[str, int]) -> None:
        wait_for(
            lambda: self.keeper.owned == owned, found=lambda: f"{owned}; has {self.keeper.owned}; {self.said}"
        )


@pytest.fixture
def pair(etcd: Etcd) -> Iterator[tuple[Entry, Entry]]:
    etcd.clear()
    one, other = (Entry(name, EtcdStore([etcd.url], answer_s=ANSWER_S)) for name in "ab")
    one.wait_for({"0": 1})
    other.wait_for({"1": 1})
    yield one, other
    for entry in (one, other):
        entry.keeper.stop()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_while_etcd_is_gone_or_stopped_owners_own_on_and_nobody_adopts(
    etcd: Etcd, pair: tuple[Entry, Entry], end: signal.Signals
) -> None:
    with etcd.under_load():
        etcd.send(end)
        for entry in pair:
            wait_for(lambda said=entry.said: bool(said), found=lambda: "nobody missed the store")  # type: ignore[misc]
        time.sleep(SLOW.term_us / 1e6 + 0.5)  # longer than a lease lasts
        etcd.send(signal.SIGCONT) if end == signal.SIGSTOP else etcd.start()
        for entry in pair:
            wait_for(lambda said=entry.said: len(said) > 1, found=lambda: "the store was not back again")  # type: ignore[misc]
    for entry, owned in zip(pair, ({"0": 1}, {"1": 1}), strict=True):
        assert "nothing is adopted" in entry.said[0]
        assert entry.history == [owned], "it owned that all the time, and nothing else"


def test_an_entry_that_ends_leaves_its_shard_and_gets_it_back(etcd: Etcd, pair: tuple[Entry, Entry]) -> None:
    one, other = pair
    one.keeper.stop()
    other.wait_for({"0": 2, "1": 1})
    back = Entry("a", EtcdStore([etcd.url], answer_s=ANSWER_S))
    back.wait_for({"0": 3})
    other.wait_for({"1": 1})
    back.keeper.stop()


def test_leases_of_a_process_that_has_ended_are_free_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "leases"
    held = Lease("a/0", "e0", "run-0", 1)
    child = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(folder), *map(str, (held.name, held.holder, held.run))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "holds\n"
        store = FileStore(folder)
        assert store.look("a/") == {held.name: held}
        child.kill()
    assert store.look("a/") == {held.name: held.given_up()}
    assert store.swap(Swap(held.given_up(), Lease("a/0", "e1", "run-1", 2)))
    assert store.look("a/")["a/0"].holder == "e1"


def test_who_can_serve_no_more_leaves_all_to_the_next_at_once(tmp_path: Path) -> None:
    lives: list[bool] = [True]
    told: list[Owned] = []
    orders = {"0": ("a", "b")}
    keeper = LeaseKeeper(
        FileStore(tmp_path),
        "a",
        "d/m/",
        orders,
        now_us,
        changed=told.append,
        lives=lambda: lives[0],
        left=lambda: told.append({"left": 0}),
    )
    keeper.start()
    wait_for(lambda: told == [{"0": 1}], found=lambda: "the shard was not owned")
    lives[0] = False
    wait_for(lambda: told == [{"0": 1}, {}, {"left": 0}], found=lambda: "the shard was not left")
    assert FileStore(tmp_path).look("d/m/")["d/m/0"].holder == ""
    keeper.stop()


class Wayward:
    """A store that fails as no store should, once."""

    def __init__(self, store: LeaseStore, error: Exception) -> None:
        self._store, self._error = store, [error]

    def look(self, prefix: str) -> Mapping[str, Lease]:
        if self._error:
            raise self._error.pop()
        return self._store.look(prefix)

    def swap(self, swap: Swap) -> bool:
        return self._store.swap(swap)

    def swap_all(self, swaps: Sequence[Swap]) -> list[bool]:
        return self._store.swap_all(swaps)

    def close(self) -> None:
        self._store.close()


@pytest.mark.parametrize("error", [KeyError("kvs"), OSError("no locks"), ArithmeticError()])
def test_whatever_a_store_does_the_keeper_looks_again(tmp_path: Path, error: Exception) -> None:
    said: list[str] = []
    keeper = LeaseKeeper(
        Wayward(FileStore(tmp_path), error), "a", "d/m/", {"0": ("a",)}, now_us, log=said.append
    )
    keeper.start()
    wait_for(lambda: keeper.owned == {"0": 1}, found=lambda: "the shard was not owned")
    keeper.stop()
    assert f"{error!r}; what is owned is served on" in said[0]


def test_a_host_without_locks_has_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreUnreachable, match=r"leases\.lock: No locks available"):
        FileStore(tmp_path).look("")


@pytest.mark.parametrize(
    "kvs", [7, [7], [{}], [{"key": 7}], {"key": "bQ=="}, [{"key": "bQ==", "value": None}]]
)
def test_an_answer_of_etcd_that_is_none_is_no_store(kvs: object) -> None:
    with pytest.raises(StoreUnreachable, match="no keys and values"):
        _pairs(kvs)


_HOLDER = """
import sys
from pathlib import Path
from python_backend.leases.file_store import FileStore
from python_backend.leases.lease import Lease, Swap
folder, name, holder, run = sys.argv[1:]
store = FileStore(Path(folder))
assert store.swap(Swap(None, Lease(name, holder, run, 1)))
print("holds", flush=True)
sys.stdin.read()
"""
