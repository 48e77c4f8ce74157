"""One life of one tritonserver process, from its start to its end.

Rules
- It serves once each of its models has answered a real question.
- It ends with ServerDied, whose text says why, or with StopAsked; the process is gone when the context is
  left.
- Ends of the server and its stubs are told by the kernel, not asked for.
- A stub that stays stopped is ended (ppipe.serving.stopped_stubs): going on, it would end its server.
- What a server is to have is what is in its folder, at any moment: a stub of a model that is no longer there
  has not died but was unloaded, and the next life begins with what is there then.
- A stub that died leaves its callers waiting. In a server with dispatchers only the end of the process
  releases them, so that is what happens; elsewhere callers get an error after a second, and the one model is
  loaded anew. What a dead stub still had to answer Triton 2.51 never lets go of: its memory region and about
  35 threads stay behind. So after many reloads, or when memory is short, a stage's server is ended too: that
  takes all its workers out for seconds.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from planner.manifest import TlsFiles
from ppipe.serving.guard import DEFAULT_GRACE_S, has_room, sweep
from ppipe.serving.logs import rotate_if_large
from ppipe.serving.polled_folder import PolledFolder
from ppipe.serving.probe import ModelProber, Probe, ProbeVerdict
from ppipe.serving.processes import Endings, GuardedProcess, stubs_of
from ppipe.serving.stopped_stubs import StoppedStubs

TICK_S = 0.2
CHECK_S = 1.0
HEALTH_TIMEOUT_S = 5.0
SILENCES_ALLOWED = 3
PROBE_TIMEOUT_S = 20.0
RELOAD_TIMEOUT_S = 30.0
GUARD_TIMEOUT_S = 10.0
RELOADS_ALLOWED = 24
"""32 MiB each: 0.75 GiB."""
_ASKED_AT_ONCE = 4
_STUB_TICK_S = 0.05
_SERVER = "the server itself"
_LOG_TAIL_BYTES = 65_536
_HARMLESS = ("CudaDriverHelper has not been initialized", "CUDA driver version is insufficient")
"""Parts of error lines that every server without a GPU writes."""


@dataclass(frozen=True)
class ServerPlan:
    """How to run one server. `models`: that it begins with; while it runs, those in its folder count.
    `dispatchers`: those of its models that hold callers until they answer them.
    """

    name: str
    address: str
    models: tuple[str, ...]
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    shm_prefix: str
    grace_s: float = DEFAULT_GRACE_S
    dispatchers: tuple[str, ...] = ()
    start_timeout_s: float = 300.0
    tls: TlsFiles | None = None
    folder: PolledFolder | None = None
    """That the server polls; None: what it serves never changes, and a dead stub ends it."""
    through: bool = True
    """Whether a dispatcher counts as answering only when the stages behind it do."""


class ServerDied(Exception):
    """The server process has ended, or cannot go on. `unexplained`: it could not say why, since it hung or a
    signal ended it.
    """

    def __init__(self, text: str, unexplained: bool = False) -> None:
        super().__init__(text)
        self.unexplained = unexplained


class StopAsked(Exception):
    """The server is wanted no longer."""


class ServerLife:
    """A context: the process runs inside it. Used by one thread; `stopping` may be set by any."""

    def __init__(self, plan: ServerPlan, stopping: threading.Event, note: Callable[[str], None]) -> None:
        self._plan = plan
        self._stopping = stopping
        self._note = note
        self._deadline_s = time.monotonic() + plan.start_timeout_s
        self._log_start = plan.log.stat().st_size if plan.log.exists() else 0
        self._endings = Endings()
        self._watched: set[str] = set()
        """Models whose stubs are looked after."""
        self._loaded = False
        self._silences = 0
        self._reloads = 0
        self._answering = False
        self._next_asked = 0
        self._failing = ""
        self._stopped_stubs = StoppedStubs(note)

    def __enter__(self) -> ServerLife:
        plan = self._plan
        self._process = GuardedProcess.start(
            plan.command,
            log=plan.log,
            environment=plan.environment,
            shm_prefixes=[plan.shm_prefix],
            grace_s=plan.grace_s,
        )
        self._prober = ModelProber(plan.address, self._stopping, plan.tls)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._prober.close()
        self._endings.close()
        self._stopped_stubs.close()
        if kind is not StopAsked or not self._answering:
            # No frame is under way, and a server that loads heeds SIGTERM only once it has loaded.
            self._process.kill()
        self._process.stop()
        # The guard has done this, unless it was itself killed.
        sweep(self._plan.shm_prefix)

    @property
    def pid(self) -> int | None:
        """Process id of the tritonserver."""
        return self._process.pid

    @property
    def models(self) -> tuple[str, ...]:
        """That the server is to have now; those that it began with first."""
        folder = self._plan.folder
        if folder is None:
            return self._plan.models
        there = folder.models()
        first = [model for model in self._plan.models if model in there]
        return (*first, *sorted(there.difference(first)))

    def wait_until_loaded(self) -> None:
        """Returns when the server calls itself ready, which is when its models are loaded."""
        while not self._prober.is_server_ready(HEALTH_TIMEOUT_S):
            self._step("it has not loaded its models")
        self._loaded = True

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Returns when `ready` says so; for what depends on others and has its own deadline there."""
        while not ready():
            self._step(None)

    def wait_until_answering(self, answered: Callable[[int], None]) -> None:
        """Returns when every model has answered; `answered` hears how many have."""
        for count, model in enumerate(self.models, start=1):
            through = self._plan.through and bool(self._plan.dispatchers)
            probe = self._prober.ask(model, PROBE_TIMEOUT_S, through)
            while probe.verdict is not ProbeVerdict.ANSWERS and model in self.models:
                if probe.verdict is ProbeVerdict.REFUSED:
                    raise ServerDied(f"model {model!r} refuses what its metadata asks for: {probe.detail}")
                if probe.verdict is ProbeVerdict.STUB_DEAD:
                    raise ServerDied(f"the Python process of model {model!r} died: {probe.detail}")
                silent = f"model {model!r} does not answer ({probe.detail or probe.verdict.value})"
                self._note(silent)
                self._step(silent)
                probe = self._prober.ask(model, PROBE_TIMEOUT_S, through)
            answered(count)
        self._answering = True

    def watch(self, fails: Callable[[str], None], has: Callable[[int], None] = lambda models: None) -> None:
        """Only ever raises. `fails` hears of a model that answers and whose program fails, and of its end;
        `has`, of how many models the server is to have, when that changes.
        """
        self._watch_processes()
        count = len(self.models)
        next_check_s = 0.0
        while True:
            ended = self._endings.wait(TICK_S)
            self._step(None, pause_s=0.0)
            for model in ended:
                self._watched.discard(model)
                self._stub_ended(model)
            self._watch_new()
            if len(self.models) != count:
                count = len(self.models)
                has(count)
            if time.monotonic() >= next_check_s:
                self._check_health()
                self._check_programs(fails)
                if rotate_if_large(self._plan.log):
                    self._log_start = 0
                next_check_s = time.monotonic() + CHECK_S

    def _watch_processes(self) -> None:
        pid = self._process.pid
        if pid is None:
            raise ServerDied(f"it ended{self._last_words()}")
        self._endings.watch(_SERVER, pid)
        self._watch_new()
        self._stopped_stubs.start()

    def _watch_new(self) -> None:
        """Look after the stubs of models that came since; an ensemble has none."""
        new = set(self.models) - self._watched
        if not new or (pid := self._process.pid) is None:
            return
        for model, stub in stubs_of(pid).items():
            if model in new:
                self._watch_stub(model, stub.pid)

    def _step(self, waiting_for: str | None, pause_s: float = TICK_S) -> None:
        """Let a little time pass, unless something has ended."""
        if self._stopping.wait(pause_s):
            raise StopAsked
        status = self._process.poll()
        if status is not None:
            raise ServerDied(f"it ended with status {status}{self._last_words()}", unexplained=status > 128)
        if waiting_for is not None and time.monotonic() > self._deadline_s:
            raise ServerDied(f"too late: {waiting_for}{self._last_words()}", unexplained=not self._loaded)

    def _stub_ended(self, model: str) -> None:
        if model == _SERVER or not self._lives():
            status = self._process.wait(GUARD_TIMEOUT_S)
            raise ServerDied(f"it ended with status {status}{self._last_words()}")
        if model not in self.models:
            self._note(f"model {model!r} was unloaded")
        elif not self._has_stub(model):  # another one is there where it was loaded anew from its folder
            self._stub_died(model)

    def _stub_died(self, model: str) -> None:
        if self._plan.folder is None:
            raise ServerDied(f"the Python process of model {model!r} died")
        if self._plan.dispatchers:
            raise ServerDied(f"the Python process of model {model!r} died; its callers need the server's end")
        self._reloads += 1
        if self._reloads > RELOADS_ALLOWED:
            raise ServerDied(f"the Python process of model {model!r} died, the {self._reloads}th one here")
        if not has_room(self._plan.shm_prefix):
            raise ServerDied(f"the Python process of model {model!r} died, and shared memory is short")
        self._note(f"the Python process of model {model!r} died: loading it again")
        # Not asked first whether it answers: requests to a dead stub take a second each, one by one.
        self._deadline_s = time.monotonic() + RELOAD_TIMEOUT_S
        self._plan.folder.load_again(model)
        while not self._has_stub(model) and model in self.models:
            self._step(f"the Python process of model {model!r} died and no other was started", _STUB_TICK_S)
        while model in self.models:
            probe = self._prober.ask(model, PROBE_TIMEOUT_S)
            if probe.verdict is ProbeVerdict.ANSWERS:
                break
            self._step(f"the Python process of model {model!r} died and did not come back ({probe.detail})")
        self._watch_new()
        self._note(f"model {model!r} was loaded again")

    def _has_stub(self, model: str) -> bool:
        pid = self._process.pid
        return pid is not None and model in stubs_of(pid)

    def _lives(self) -> bool:
        """Whether the server is there: its end takes its stubs with it, in any order."""
        return self._process.poll() is None and self._process.pid is not None

    def _watch_stub(self, model: str, pid: int) -> None:
        self._watched.add(model)
        self._endings.watch(model, pid)
        self._stopped_stubs.watch(model, pid)

    def _check_health(self) -> None:
        probes = [self._prober.ask_hopeless(name, HEALTH_TIMEOUT_S) for name in self._plan.dispatchers]
        for probe in probes or [self._prober.ask_live(HEALTH_TIMEOUT_S)]:
            self._judge(probe)

    def _check_programs(self, fails: Callable[[str], None]) -> None:
        """Ask some of a stage server's models in turn: one may answer probes and fail on every batch."""
        names = () if self._plan.dispatchers else self.models
        if self._failing and self._failing not in names:
            self._failing = ""
            fails("")
        for _ in range(min(len(names), _ASKED_AT_ONCE)):
            model = names[self._next_asked % len(names)]
            self._next_asked += 1
            probe = self._prober.ask(model, HEALTH_TIMEOUT_S)
            if probe.verdict is ProbeVerdict.FAILS:
                self._failing = model
                fails(f"model {model!r}: {probe.detail}")
            elif probe.verdict is ProbeVerdict.ANSWERS and self._failing == model:
                self._failing = ""
                fails("")

    def _judge(self, probe: Probe) -> None:
        if probe.verdict is ProbeVerdict.STUB_DEAD:
            raise ServerDied(f"a dispatcher's Python process died: {probe.detail}")
        self._silences = self._silences + 1 if probe.verdict is ProbeVerdict.SILENT else 0
        if self._silences >= SILENCES_ALLOWED:
            raise ServerDied(f"no answer to {SILENCES_ALLOWED} probes of {HEALTH_TIMEOUT_S:.0f} s each")

    def _last_words(self) -> str:
        """The errors that this life wrote into the log, and where the log is."""
        with self._plan.log.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(self._log_start, size - _LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
        said = "".join(f"\n    {line}" for line in log_errors(text))
        return f"; its log {self._plan.log} says:{said}" if said else f"; see its log {self._plan.log}"


def log_errors(text: str, most: int = 6) -> list[str]:
    """The lines of a tritonserver log that tell what went wrong: error lines, the first ones, each once."""
    found: dict[str, None] = {}
    for line in text.splitlines():
        match = re.match(r"E\d{4} [\d:.]+ \d+ [\w.]+:\d+\] (.*)", line)
        message = match[1].strip('"') if match else line if line.startswith("error:") else ""
        if message and not any(part in message for part in _HARMLESS):
            found.setdefault(message)
    return list(found)[:most]
