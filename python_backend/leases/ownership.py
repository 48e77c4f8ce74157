"""Which shards an entry owns: looks at the store in, swaps out. Pure: no clock, no store, no thread.

Rules
- Each shard has an order of entries. Its home, the first, takes it when it is free; when its owner's lease
  has run out, the first in the order that shows signs of life adopts it.
- A lease has run out when its record stayed the same for `term_us` of looks without a gap. So who cannot look
  adopts nothing, and after a store was away every owner has a whole term again to renew in.
- An owner owns until it sees a higher term, in the store or because a worker refused its own: while the
  store is away all go on. Two owners for a moment cost lateness and nothing else.
- Who adopted a shard offers it to its home once that has shown signs of life for `settle_us`, and owns it
  until it sees that the home has taken it. So while it is given back somebody owns it all the time.
- Terms of a shard only grow, also over a store that lost what it had: each entry remembers the highest.
- Who is not ready (reaches no worker) takes nothing and shows no sign of life. What it owns it gives up after
  a term of that, if another entry shows signs of life: that one reaches workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from python_backend.leases.lease import Lease, Swap


@dataclass(frozen=True)
class LeaseTimes:
    """Microseconds. A store is looked at every look_us; after beat_us a lease is renewed.

    From a kill to adoption: at most term_us + 2 looks + step_us for every live entry that is before the
    adopter in the shard's order and does not take it.
    """

    look_us: int = 150_000
    beat_us: int = 250_000
    term_us: int = 900_000
    step_us: int = 300_000
    gap_us: int = 500_000
    """Looks that are further apart show nothing of what was between them."""
    settle_us: int = 1_000_000


@dataclass
class _Watched:
    """A record and since when, by our own clock, it is this one; alive_us: since when it goes on changing."""

    lease: Lease | None
    since_us: int
    alive_us: int | None = None


class Ownership:
    """Of one entry, called `me`, in one run of its process. `orders`: by the name of each shard's lease, the
    entries in the order in which they may own it. `presence`: names of entries' signs of life begin so.
    """

    def __init__(
        self,
        me: str,
        run: str,
        orders: Mapping[str, Sequence[str]],
        presence: str,
        times: LeaseTimes | None = None,
    ) -> None:
        self._me = me
        self._run = run
        self._orders = {name: tuple(order) for name, order in orders.items()}
        self._presence = presence
        self._times = times or LeaseTimes()
        self._owned: dict[str, Lease] = {}
        self._highest: dict[str, int] = dict.fromkeys(orders, 0)
        self._watched: dict[str, _Watched] = {}
        self._looked_us: int | None = None
        self._beat_us: int | None = None
        self._unready_us: int | None = None
        """Since when not."""
        self.ready = True

    @property
    def owned(self) -> dict[str, int]:
        """The term of each shard that is owned, by name."""
        return {name: lease.term for name, lease in self._owned.items()}

    def owner(self, name: str) -> str:
        """Who owns a shard, as far as is known; '' for nobody."""
        if name in self._owned:
            return self._me
        watched = self._watched.get(name)
        return watched.lease.holder if watched is not None and watched.lease is not None else ""

    def looked(self, found: Mapping[str, Lease], asked_us: int, now_us: int) -> list[Swap]:
        """What to do after a look at the store that was asked for at `asked_us` and answered at `now_us`."""
        times = self._times
        whole = self._looked_us is not None and now_us - self._looked_us <= times.gap_us
        self._looked_us = now_us
        others = {self._presence + entry for order in self._orders.values() for entry in order} - {
            self._presence + self._me
        }
        for name in (*self._orders, *sorted(others)):
            self._watch(name, found.get(name), whole, now_us)
        self._unready_us = None if self.ready else self._unready_us or asked_us
        due = self._beat_us is None or now_us - self._beat_us >= times.beat_us
        swaps = [swap for name in self._orders if (swap := self._decide(name, asked_us, due)) is not None]
        if due:
            self._beat_us = now_us
            if self.ready:
                swaps.append(self._sign_of_life(found.get(self._presence + self._me)))
        return swaps

    def unreachable(self) -> None:
        """The store did not answer: what was seen of it before says nothing of now."""
        self._looked_us = None

    def swapped(self, swap: Swap, made: bool, now_us: int) -> Swap | None:
        """What became of a swap. Of one whose fate is not known, say nothing: the next look tells. Returns
        what is to be given up: a lease of a shard that went while it was written.
        """
        name = swap.new.name
        if made and name in self._orders:
            self._watched[name] = _Watched(swap.new, now_us)
            self._take_note(name, swap.new)
        elif made and swap.new.holder == self._me and name != self._presence + self._me:
            return Swap(swap.new, swap.new.given_up())
        return None

    def refused(self, name: str, term: int) -> None:
        """A worker has seen this term of a shard: who owns it with a lower one does so no more."""
        self._highest[name] = max(self._highest[name], term)
        mine = self._owned.get(name)
        if mine is not None and mine.term < term:
            del self._owned[name]

    def reorder(self, orders: Mapping[str, Sequence[str]]) -> list[Swap]:
        """From now on there are these shards, with these orders. What is owned of others is given up."""
        gone = self._orders.keys() - orders.keys()
        swaps = [Swap(lease, lease.given_up()) for name, lease in self._owned.items() if name in gone]
        for name in gone:
            self._owned.pop(name, None)
            self._watched.pop(name, None)  # what was seen of it says nothing if it comes again
        self._orders = {name: tuple(order) for name, order in orders.items()}
        for name in orders:
            self._highest.setdefault(name, 0)
        return swaps

    def give_up(self) -> list[Swap]:
        """At an orderly end: everything owned is free for the next."""
        swaps = [Swap(lease, lease.given_up()) for lease in self._owned.values()]
        self._owned.clear()
        return swaps

    def _watch(self, name: str, lease: Lease | None, whole: bool, now_us: int) -> None:
        before = self._watched.get(name)
        if before is None:
            self._watched[name] = _Watched(lease, now_us)
        elif before.lease != lease:
            alive_us = before.alive_us if before.alive_us is not None and lease is not None else None
            if lease is not None and not lease.holder:
                alive_us = None  # it was given up, by its holder or by a store that knows of its end
            elif lease is not None and alive_us is None and lease.beat > 0:
                alive_us = now_us
            self._watched[name] = _Watched(lease, now_us, alive_us)
        elif not whole:
            before.since_us = now_us
        elif now_us - before.since_us >= self._times.term_us:
            before.alive_us = None
        if lease is not None and name in self._orders:
            self._take_note(name, lease)

    def _take_note(self, name: str, lease: Lease) -> None:
        """Own what the store says is ours, and no more what it says is another's."""
        mine = lease.holder == self._me and lease.run == self._run
        if mine and lease.term >= self._highest[name]:
            self._owned[name] = lease
        elif name in self._owned and not mine and lease.term > self._owned[name].term:
            del self._owned[name]
        self._highest[name] = max(self._highest[name], lease.term)

    def _decide(self, name: str, asked_us: int, due: bool) -> Swap | None:
        lease = self._watched[name].lease
        mine = self._owned.get(name)
        if mine is not None:
            if lease is None or lease.term < mine.term:
                return self._acquire(name)  # a store that forgot
            if self._is_for_others(name, asked_us):
                del self._owned[name]
                return Swap(lease, lease.given_up())
            home = self._orders[name][0]
            if home != self._me and lease.heir != home and self._is_settled(home, asked_us):
                return Swap(lease, lease.offered(home))
            return Swap(lease, lease.renewed()) if due else None
        return self._acquire(name) if self.ready and self._is_mine_to_take(name, asked_us) else None

    def _is_for_others(self, name: str, asked_us: int) -> bool:
        """Whether nothing of it can be served here, and perhaps elsewhere."""
        if self._unready_us is None or asked_us - self._unready_us < self._times.term_us:
            return False
        return any(self._alive_us(entry) is not None for entry in self._orders[name] if entry != self._me)

    def _is_mine_to_take(self, name: str, asked_us: int) -> bool:
        watched, order, times = self._watched[name], self._orders[name], self._times
        if self._me not in order:
            return False
        lease = watched.lease
        unchanged_us = asked_us - watched.since_us
        turn_us = times.step_us * self._before_me(order, lease)
        if lease is None:
            # A new store: the home may not have come to look at it yet.
            return order[0] == self._me or unchanged_us >= times.term_us + turn_us
        if not lease.holder:
            return unchanged_us >= turn_us
        if lease.holder == self._me or lease.heir == self._me:
            return True
        return unchanged_us >= times.term_us + turn_us

    def _before_me(self, order: Sequence[str], lease: Lease | None) -> int:
        """Entries before us that show signs of life, but for the one whose lease it is."""
        before = order[: order.index(self._me)]
        holder = "" if lease is None else lease.holder
        return sum(entry != holder and self._alive_us(entry) is not None for entry in before)

    def _alive_us(self, entry: str) -> int | None:
        watched = self._watched.get(self._presence + entry)
        return None if watched is None else watched.alive_us

    def _is_settled(self, entry: str, at_us: int) -> bool:
        alive_us = self._alive_us(entry)
        return alive_us is not None and at_us - alive_us >= self._times.settle_us

    def _acquire(self, name: str) -> Swap:
        seen = self._watched[name].lease
        return Swap(seen, Lease(name, self._me, self._run, self._highest[name] + 1))

    def _sign_of_life(self, seen: Lease | None) -> Swap:
        if seen is not None and seen.run == self._run:
            return Swap(seen, seen.renewed())
        term = 1 if seen is None else seen.term + 1
        return Swap(seen, Lease(self._presence + self._me, self._me, self._run, term))
