"""Keeps an entry's leases: looks at the store, does what `Ownership` decides, tells of changes. One thread.

Rules
- Nobody who serves frames waits for the store. What is owned is read from memory.
- Only this thread tells of changes, so that whoever is told may call back. He must not keep it long: leases
  are to be renewed.
- Whatever goes wrong, it looks again: without it what is owned would be neither renewed nor given up.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence

from python_backend.leases.lease import LeaseStore, StoreUnreachable, Swap
from python_backend.leases.ownership import LeaseTimes, Ownership

Owned = Mapping[str, int]
"""Terms by shard."""


class LeaseKeeper:
    """Of entry `me`, for the shards in `orders` (see Ownership). `group`: what the names of these shards'
    leases begin with, '/' at its end.
    """

    def __init__(
        self,
        store: LeaseStore,
        me: str,
        group: str,
        orders: Mapping[str, Sequence[str]],
        now_us: Callable[[], int],
        *,
        changed: Callable[[Owned], None] = lambda owned: None,
        ready: Callable[[], bool] = lambda: True,
        lives: Callable[[], bool] = lambda: True,
        left: Callable[[], None] = lambda: None,
        times: LeaseTimes | None = None,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        """changed: called by the keeper's thread with all that is owned, again at the next look if it raises;
        must return at once.
        ready: whether any worker can be reached; without one nothing is taken. lives: whether what is owned
        can still be served; else all is left to the next, at once and for good, and `left` is called. log:
        takes a line where the store goes or comes back.
        """
        self._store = store
        self._group = group
        self._times = times or LeaseTimes()
        self._ownership = Ownership(
            me,
            secrets.token_hex(8),
            self._long(orders),
            f"{group}at/",
            self._times,
        )
        self._now_us = now_us
        self._changed = changed
        self._ready = ready
        self._lives = lives
        self._left = left
        self._log = log
        self._lock = threading.Lock()
        self._ended = False
        self._wake = threading.Event()
        self._reachable = True
        self._told: Owned = {}
        self._left_over: list[Swap] = []
        """What is to be given up of shards that are no more."""
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End, and leave what is owned to the next."""
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._give_up()
        self._store.close()

    def _give_up(self) -> None:
        with self._lock:
            swaps = self._ownership.give_up()
        try:
            if swaps:
                self._store.swap_all(swaps)
        except Exception as error:
            self._log(f"leases: what is left cannot be given up, and has to run out: {error!r}")

    @property
    def owned(self) -> Owned:
        """Terms of what is owned now, by shard."""
        with self._lock:
            return self._short(self._ownership.owned)

    def owner(self, shard: str) -> str:
        """Who owns a shard, as far as is known; '' for nobody."""
        with self._lock:
            return self._ownership.owner(self._group + shard)

    def reorder(self, orders: Mapping[str, Sequence[str]]) -> None:
        """From now on there are these shards. What is owned of others is given up at the next look."""
        with self._lock:
            self._left_over += self._ownership.reorder(self._long(orders))
        self._wake.set()

    def refused(self, shard: str, term: int) -> None:
        """A worker refused our term of a shard because it has seen this one."""
        with self._lock:
            self._ownership.refused(self._group + shard, term)
        self._wake.set()

    def _run(self) -> None:
        while not self._ended:
            if not self._lives():
                self._give_up()
                self._tell()
                self._left()
                return
            self._tell()  # of what a worker refused, however long the store takes
            self.look()
            self._wake.wait(self._times.look_us / 1e6)
            self._wake.clear()

    def look(self) -> None:
        """One look at the store, and what follows from it."""
        try:
            self._ownership.ready = self._ready()
            asked_us = self._now_us()
            found = self._store.look(self._group)
            with self._lock:
                left = list(self._left_over)
                swaps = [*left, *self._ownership.looked(found, asked_us, self._now_us())]
            self._swap(swaps)
            with self._lock:  # not before: a store that is away has given up nothing
                del self._left_over[: len(left)]
        except Exception as error:  # one that nobody expected must not end the thread
            with self._lock:
                self._ownership.unreachable()
            text = str(error) if isinstance(error, StoreUnreachable) else repr(error)
            self._say(False, f"leases: {text}; what is owned is served on, and nothing is adopted")
        else:
            self._say(True, "leases: the store answers again")
        self._tell()

    def _swap(self, swaps: Sequence[Swap]) -> None:
        all_made = self._store.swap_all(swaps) if swaps else []
        with self._lock:
            for swap, made in zip(swaps, all_made, strict=True):
                if late := self._ownership.swapped(swap, made, self._now_us()):
                    self._left_over.append(late)

    def _say(self, reachable: bool, text: str) -> None:
        if reachable != self._reachable:
            self._reachable = reachable
            self._log(text)

    def _tell(self) -> None:
        owned = self.owned
        if owned == self._told:
            return
        try:
            self._changed(owned)
        except Exception as error:
            self._log(f"leases: what is owned cannot be served: {error!r}")
        else:
            self._told = owned

    def _long(self, orders: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
        return {self._group + shard: order for shard, order in orders.items()}

    def _short(self, owned: Owned) -> Owned:
        return {name.removeprefix(self._group): term for name, term in owned.items()}
