"""The loop: look, decide, plan, roll out, one thing after the other, until it is told to stop.

Each turn looks at the servers and dispatchers (looks), says what is true now (server_health, measured),
has a plan made for it where something changed (planners), asks the rules (rules), and rolls out
(ppipe.rollout).

Rules
- For the loss of each single server there is a plan beforehand (loss_plans).
- A rollout that was stopped is brought to its end first of all (served).
- While a rollout is made nothing else is looked at; what changed meanwhile is seen at the next turn.
- What others roll out meanwhile is what is served from then on; one of theirs that was killed is taken up.
- A plan that cannot be made, or a rollout that fails, is said and recorded, and tried again (retries).
- A loss is not acted on while another server is silent: it may be out in a moment, and a plan would need it.
- What another plan would hardly serve better is good enough: it is no reason to plan any more.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass, field, replace

from planner.rollout.fleet import Tables
from planner.serial import FormatError
from ppipe.operate.looks import Watch
from ppipe.operate.loss_plans import NOT_ROLLED_OUT, AskedPlan, LossPlans, ServedNow
from ppipe.operate.measured import DriftWatch, MeasureSettings, Rates, has_moved
from ppipe.operate.others import ActedOn, Others
from ppipe.operate.planners import LONGEST_S, Made, Planners
from ppipe.operate.replan import Truth, flows, planned_rps, wanted_rps, with_servers
from ppipe.operate.retries import Retries
from ppipe.operate.rules import Cause, Decider, Decision, PlanPromise, RuleSettings, View
from ppipe.operate.served import problems_of, take_up, what_is_served
from ppipe.operate.server_health import ServerHealth, SilenceSettings
from ppipe.rollout.deployed import Deployed
from ppipe.rollout.history import HistoryEntry
from ppipe.rollout.live import FleetDown, served_tables
from ppipe.rollout.preparing import make_ready
from ppipe.rollout.rollout import Progress, no_progress, perform

TURN_S = 0.3
SILENT_TURN_S = 0.1
"""While a server is silent: how soon it is found lost, and what its loss needs made ready, is time in which
frames are refused.
"""
FRESH_S = 3.0
"""A plan for load or drift is made anew that long after it was made, while the reason holds."""


@dataclass(frozen=True)
class OperateSettings:
    """All of the loop. advise: decide and say, and roll nothing out."""

    silence: SilenceSettings = field(default_factory=SilenceSettings)
    measure: MeasureSettings = field(default_factory=MeasureSettings)
    rules: RuleSettings = field(default_factory=RuleSettings)
    advise: bool = False


class OperateLoop:
    """See the module. `log` hears what is decided, `progress` how far a rollout has come, `rolled_out` how
    each ended.
    """

    def __init__(
        self,
        deployed: Deployed,
        served: ServedNow,
        settings: OperateSettings,
        watch: Watch,
        planners: Planners,
        log: Callable[[str], None],
        rolled_out: Callable[[HistoryEntry], None] = lambda entry: None,
        progress: Progress = no_progress,
        now_s: float | None = None,
    ) -> None:
        now_s = time.monotonic() if now_s is None else now_s
        self._deployed = deployed
        running = {server.name for server in served.manifest.servers}
        self._problems = tuple(with_servers(problem, running) for problem in problems_of(deployed))
        self._problem = self._problems[0]
        self.served = served
        self._settings = settings
        self._watch = watch
        self._planners = planners
        self._log = log
        self._rolled_out = rolled_out
        self._progress = progress
        self._health = ServerHealth(watch.servers, settings.silence, now_s, served.truth.out)
        self._rates = Rates(settings.measure)
        self._drift = DriftWatch(settings.measure)
        self._decider = Decider(settings.rules)
        self._losses = LossPlans(
            deployed, self._problems, planners, self._rates, settings.measure, self._say_text
        )
        self._asked: AskedPlan | None = None
        self._judged_rps: Mapping[str, float] = served.truth.rates_rps or planned_rps(
            served.plan, self._problem
        )
        """The mix that what is served was last found good for."""
        self._said, self._said_last = "", ""
        self._retries = Retries(settings.rules.between_s)
        self._others = Others(deployed)
        self._stopped, self._take_up_at_s = not settings.advise, now_s
        """Whether there may be a rollout that was stopped, and when to look."""

    @property
    def is_ready(self) -> bool:
        """Whether there is a plan for the loss of each server that is used, for the load as it is now."""
        return self._losses.complete and self._rates.is_full

    def run(self, stop: threading.Event) -> None:
        """Turn after turn."""
        while not stop.is_set():
            began_s = time.monotonic()
            self.turn(began_s)
            turn_s = SILENT_TURN_S if self._health.silent else TURN_S
            stop.wait(max(0.0, turn_s - (time.monotonic() - began_s)))

    def turn(self, now_s: float) -> Decision:
        """One turn; what was decided."""
        if self._stopped and now_s >= self._take_up_at_s and self._takes_up(now_s):
            return Decision(False, None, "a rollout that was stopped was taken up")
        try:
            self._see_others(now_s)
            tables = served_tables(self._deployed.tables, self._deployed.answers, self.served.manifest)
        except (FleetDown, ValueError, OSError) as error:
            self._say_text(str(error))
            return Decision(False, None, str(error))
        answering = self._watch.answering(tables, now_s)
        for change in self._health.saw(answering, now_s):
            self._log(str(change))
        view, truth = self._view(tables, now_s)
        if view.cause is None:
            self._asked = None
        wait = self._reason_to_wait(view, truth, now_s)
        made = None if view.cause is None or wait else self._plan_for(view.cause, truth, now_s)
        if wait:
            decision = Decision(False, view.cause, wait)
        else:
            promise = None if made is None else made.promise
            decision = self._decider.decide(replace(view, promise=promise), now_s)
        self._say(decision)
        if made is not None and decision.roll_out:
            self._act(decision, made, truth)
        elif made is not None and decision.cause is not None:
            self._settle_for(decision.cause, made.promise, truth)
        if view.cause is not Cause.LOSS and not decision.roll_out:
            self._make_ready(tables, truth, now_s)
        return decision

    def _reason_to_wait(self, view: View, truth: Truth, now_s: float) -> str:
        """Why nothing is done yet, though there is cause; '' if nothing is in the way."""
        lost = ", ".join(sorted(view.lost))
        if view.cause is Cause.LOSS and self._health.suspected:
            return f"lost: {lost}; {', '.join(sorted(self._health.suspected))} may be out in a moment too"
        if view.cause is not None and (wait_s := self._retries.wait_s(truth.out, now_s)) > 0:
            return f"{view.cause.value}: the last rollout failed; tried again in {wait_s:.0f} s"
        return ""

    def _make_ready(self, tables: Tables, truth: Truth, now_s: float) -> None:
        """For what may be lost."""
        suspected = self._health.suspected
        if not suspected:
            self._losses.plan_next(self.served, tables, truth)
        if not self._settings.advise:
            least_gain = self._settings.rules.least_gain
            self._losses.look(suspected, self.served, truth, least_gain, now_s)

    def _settle_for(self, cause: Cause, promise: PlanPromise, truth: Truth) -> None:
        """Take what is served for as good as it can be with what is true now, where it nearly is."""
        rules = self._settings.rules
        if cause in (Cause.LOSS, Cause.RETURN):
            if promise.gain < rules.least_gain:
                self.served = replace(self.served, truth=replace(self.served.truth, out=truth.out))
        elif promise.gain < rules.gain or promise.served >= rules.enough:
            if cause is Cause.LOAD:
                self._judged_rps = truth.rates_rps
            else:
                true = replace(self.served.truth, factors=truth.factors)
                self.served = replace(self.served, truth=true)
                self._drift.planned_with({_text(key): factor for key, factor in truth.factors.items()})

    def _see_others(self, now_s: float) -> None:
        """Raises as Others.look."""
        found = self._others.look(self.served.manifest)
        if found is ActedOn.UNDER_WAY and not self._stopped and not self._settings.advise:
            self._stopped, self._take_up_at_s = True, now_s + self._settings.rules.between_s
        elif isinstance(found, ServedNow):
            self._log(f"revision {found.manifest.epoch} is served, which somebody else rolled out")
            self._serve(found)
            self._end_act()

    def _serve(self, served: ServedNow) -> None:
        """That is what is served, made with nobody knows which rates."""
        self.served = replace(served, truth=replace(served.truth, factors=self.served.truth.factors))
        self._judged_rps = planned_rps(served.plan, self._problem)

    # What is true now

    def _view(self, tables: Tables, now_s: float) -> tuple[View, Truth]:
        pages = self._watch.pages
        if pages.at_s == now_s and pages.frames:
            coming = flows(self._problem)
            self._rates.saw({model: pages.frames[model] for model in pages.frames if model in coming}, now_s)
        rates = self._rates.now_rps() if self._rates.is_full else {}
        drifted = self._drift.saw({_text(key): factor for key, factor in pages.drift.items()}, now_s)
        moved = has_moved(rates, self._judged_rps, self._rates.seconds, self._settings.measure)
        used = {worker.server for table in tables.values() for _, worker in table.workers()}
        out = self._health.out
        factors = dict(self.served.truth.factors)
        factors.update({key: factor for key, factor in pages.drift.items() if _text(key) in drifted})
        view = View(
            lost=frozenset(out & used) - self.served.truth.out,
            returned=frozenset(self.served.truth.out - out),
            drifted=drifted,
            load_moved=moved,
        )
        return view, Truth(out, rates if moved else _scaled(self._judged_rps, rates), factors)

    # Plans

    def _plan_for(self, cause: Cause, truth: Truth, now_s: float) -> Made | None:
        """The plan for what is true now, where there is one already. A loss is waited for: so long may a
        plan take, which is then made with the stated margins alone. A plan for a mix that has moved on since
        is made anew: while a load turns, the window over which rates are taken holds some of both.
        """
        if cause is Cause.LOSS and (kept := self._losses.kept_for(self.served, truth)) is not None:
            return kept
        asked = self._asked
        if asked is not None and asked.made.done():
            done_s = now_s if asked.done_s is None else asked.done_s
            asked = self._asked = replace(asked, done_s=done_s)
            if now_s - done_s > FRESH_S:
                asked = None
        if asked is None or self._losses.is_stale(asked, truth):
            problems = self._problems[:1] if cause is Cause.LOSS else self._problems
            asked = AskedPlan(truth, self._planners.now(problems, truth, self.served.plan))
            self._asked = asked
        return self._made(asked, LONGEST_S if cause is Cause.LOSS else 0.0)

    def _made(self, asked: AskedPlan, wait_s: float) -> Made | None:
        """None where it is not there yet, or cannot be."""
        try:
            return asked.made.result(timeout=wait_s)
        except TimeoutError:
            return None
        except (ValueError, BrokenExecutor) as error:
            self._say_text(f"no plan without {', '.join(sorted(asked.truth.out)) or 'a change'}: {error}")
            return None

    # Acting

    def _takes_up(self, now_s: float) -> bool:
        """Whether there was a rollout to bring to its end, and that is done."""
        self._take_up_at_s = now_s + self._settings.rules.between_s
        try:
            entry = take_up(self._deployed, self._progress, self._watch.pages.rows)
            if entry is not None:
                self.served = what_is_served(self._deployed)
        except NOT_ROLLED_OUT as error:
            self._say_text(f"a rollout that was stopped is not taken up: {error}")
            return False
        self._stopped = False
        if entry is None:
            return False
        out = self.served.truth.out
        self._health = ServerHealth(self._watch.servers, self._settings.silence, time.monotonic(), out)
        self._rolled_out(entry)
        self._end_act()
        return True

    def _act(self, decision: Decision, made: Made, truth: Truth) -> None:
        """Roll out, unless this only advises."""
        if self._settings.advise or decision.cause is None:
            return
        kept = 0
        try:
            ready = made.ready or make_ready(self._deployed, made.plan)
            manifest = self._others.keep(ready, made.plan, self.served.manifest.epoch)
            kept = manifest.epoch
            entry = perform(
                self._deployed,
                manifest,
                decision.cause.value,
                decision.why,
                progress=self._progress,
                wanted_rps=wanted_rps(self._problem, truth) or None,
                before=self._watch.pages.rows,
            )
        except NOT_ROLLED_OUT as error:
            self._say_text(f"not rolled out: {error}")
            with contextlib.suppress(OSError, FormatError):
                self._others.forget_unbegun(kept)
            now_s = time.monotonic()
            self._retries.failed(truth.out, now_s)
            self._stopped, self._take_up_at_s = True, now_s + self._settings.rules.between_s
        else:
            self._retries.done()
            self.served = ServedNow(manifest, made.plan, truth)
            self._judged_rps = truth.rates_rps or self._judged_rps
            self._drift.planned_with({_text(key): factor for key, factor in truth.factors.items()})
            self._rolled_out(entry)
        self._end_act()

    def _end_act(self) -> None:
        self._asked = None
        self._losses.forget()
        self._decider.rolled_out(time.monotonic())

    def _say(self, decision: Decision) -> None:
        """What is decided, when that changes in kind."""
        kind = f"{decision.roll_out} {decision.cause}"
        if kind != self._said and decision.cause is not None:
            self._log(("to roll out: " if decision.roll_out else "") + decision.why)
        self._said = kind

    def _say_text(self, text: str) -> None:
        if text != self._said_last:
            self._log(text)
        self._said_last = text


def _text(key: tuple[str, str]) -> str:
    """Of a drift: model and class."""
    return f"{key[0]} on {key[1]}"


def _scaled(mix: Mapping[str, float], rates: Mapping[str, float]) -> dict[str, float]:
    """The mix at what comes in all; as it is where nothing is known."""
    total, planned = sum(rates.values()), sum(mix.values())
    by = total / planned if total > 0 and planned > 0 else 1.0
    return {model: rate * by for model, rate in mix.items()}
