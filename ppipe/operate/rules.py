"""When a fleet is rolled out anew: what is promised by another plan, held against how much a rollout
disturbs.

Rules
- A loss is healed at once, when another plan serves more of what comes than what the loss left.
- All else waits until the last rollout is `between_s` ago.
- A server that came back is used again when that serves at least `least_gain` more.
- Drift and moved load are acted on when the promised gain has been above `gain` for `gain_s`, without a
  break, and what is served now is less than `enough` times what comes.
- No plan is rolled out that simulates worse than what is served.
- Factors are of what comes: 1.0 serves all of it, in the mix in which it comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from ppipe.operate.server_health import SettingFault


class Cause(Enum):
    """Why a fleet is planned anew."""

    LOSS = "loss"
    RETURN = "return"
    DRIFT = "drift"
    LOAD = "load"


@dataclass(frozen=True)
class RuleSettings:
    """See the module. Gains are shares, times seconds."""

    gain: float = 0.10
    gain_s: float = 4.0
    least_gain: float = 0.02
    between_s: float = 60.0
    enough: float = 1.5

    def __post_init__(self) -> None:
        for name in ("gain", "least_gain", "between_s", "gain_s"):
            if not getattr(self, name) >= 0:
                raise SettingFault(f"{name}: {getattr(self, name):g} must be 0 or more")
        if not self.enough > 0:
            raise SettingFault(f"enough: {self.enough:g} must be above 0")


@dataclass(frozen=True)
class PlanPromise:
    """What is served now and what another plan would serve, as factors of what comes; and of the same
    arrivals, the share that each serves in simulation.
    """

    served: float
    planned: float
    simulated_served: float
    simulated_planned: float

    @property
    def gain(self) -> float:
        """What the other plan serves more, as a share."""
        if self.served <= 0:
            return 0.0 if self.planned <= 0 else float("inf")
        return self.planned / self.served - 1

    def heals(self, least_gain: float) -> bool:
        """Whether it is rolled out after a loss."""
        return self.gain >= least_gain and self.simulated_planned >= self.simulated_served


@dataclass(frozen=True)
class View:
    """What is true now. lost: servers that are out, and that the served tables use. returned: servers that
    are in, and that the served plan was made without. drifted: by what, the factor. promise: None while no
    other plan has been made for what is true now.
    """

    lost: frozenset[str] = frozenset()
    returned: frozenset[str] = frozenset()
    drifted: Mapping[str, float] = field(default_factory=dict)
    load_moved: bool = False
    promise: PlanPromise | None = None

    @property
    def cause(self) -> Cause | None:
        """The most pressing reason to plan anew; None where nothing has changed."""
        reasons = (
            (Cause.LOSS, self.lost),
            (Cause.RETURN, self.returned),
            (Cause.DRIFT, self.drifted),
            (Cause.LOAD, self.load_moved),
        )
        return next((cause for cause, holds in reasons if holds), None)


@dataclass(frozen=True)
class Decision:
    """Whether to roll out, and why, or why not."""

    roll_out: bool
    cause: Cause | None
    why: str


class Decider:
    """Applies the rules to one view after the other. `last_rollout_s`: of a rollout before its time."""

    def __init__(self, settings: RuleSettings, last_rollout_s: float | None = None) -> None:
        self._settings = settings
        self._last_rollout_s = last_rollout_s
        self._gain_since_s: float | None = None

    def rolled_out(self, now_s: float) -> None:
        """A rollout has ended, well or not."""
        self._last_rollout_s = now_s
        self._gain_since_s = None

    def decide(self, view: View, now_s: float) -> Decision:
        """What to do now."""
        cause, promise = view.cause, view.promise
        if cause is None:
            self._gain_since_s = None
            return Decision(False, None, "nothing has changed")
        if promise is None:
            return Decision(False, cause, f"{_what(cause, view)}; no plan for that yet")
        if cause is not Cause.LOSS and (wait_s := self._wait_s(now_s)) > 0:
            self._gain_since_s = None
            return Decision(
                False,
                cause,
                f"{_what(cause, view)}; the next rollout may be in {wait_s:.0f} s",
            )
        refusal = self._refusal(cause, promise, now_s)
        text = f"{_what(cause, view)}; {_figures(promise)}"
        return Decision(refusal == "", cause, f"{text}: {refusal}" if refusal else text)

    def _refusal(self, cause: Cause, promise: PlanPromise, now_s: float) -> str:
        """Why a plan is not rolled out; '' if it is."""
        settings = self._settings
        if promise.simulated_planned < promise.simulated_served:
            return "it simulates worse than what is served"
        if cause in (Cause.LOSS, Cause.RETURN):
            return "" if promise.gain >= settings.least_gain else "what is served is as good"
        if promise.served >= settings.enough:
            self._gain_since_s = None
            return f"what is served is enough for {settings.enough:g} times what comes"
        if promise.gain < settings.gain:
            self._gain_since_s = None
            return f"less than {settings.gain:.0%} more"
        if self._gain_since_s is None:
            self._gain_since_s = now_s
        held_s = now_s - self._gain_since_s
        return "" if held_s >= settings.gain_s else f"for {held_s:.1f} of {settings.gain_s:g} s"

    def _wait_s(self, now_s: float) -> float:
        if self._last_rollout_s is None:
            return 0.0
        return self._last_rollout_s + self._settings.between_s - now_s


def _what(cause: Cause, view: View) -> str:
    if cause is Cause.LOSS:
        return f"lost: {', '.join(sorted(view.lost))}"
    if cause is Cause.RETURN:
        return f"back: {', '.join(sorted(view.returned))}"
    if cause is Cause.DRIFT:
        return "drift: " + ", ".join(f"{name} {factor:.2f}" for name, factor in sorted(view.drifted.items()))
    return "the load has moved"


def _figures(promise: PlanPromise) -> str:
    return f"{promise.served:.2f} of what comes is served, {promise.planned:.2f} with another plan"
