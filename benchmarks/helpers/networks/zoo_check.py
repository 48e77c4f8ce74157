"""Whether a network of the zoo, split at every cut, gives the answers of the unsplit one, in float32.

The split network runs block after block, so every cut is crossed. Two unsplit ones are compared with it: the
network itself in plain torch ("eager"), whose convolutions may use other algorithms than a stage's, and all
blocks as one stage ("exported"), which runs what the blocks run: what differs from that is the split's doing.
Errors are the largest difference as a share of the output's range.

What is found is kept in a file per network, batch and code, so a stopped run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

import ensembles.zoo
import planner.profiling
from ensembles.zoo.catalogue import ZooEntry
from ensembles.zoo.liveliness import noise_frames
from planner.deployment import ModelSpec, input_spec
from planner.plan import BlockRange
from planner.profiling.networks.loading import load_network
from planner.profiling.split import split_model
from planner.profiling.stages import stage_module

BATCHES = (1, 2, 8)
Shape = tuple[int, int, int]
SMALL: dict[str, Shape] = {
    "classification": (3, 64, 64),
    "segmentation": (3, 64, 128),
    "detection": (3, 128, 128),
    "colorization": (1, 64, 64),
}
SMALLEST: dict[str, Shape] = {"inceptionv3": (3, 107, 107)}
"""Where the task's small frame is too small for the network."""

DECIDING = (
    "network.py", "split.py",
    *(f"networks/{name}.py" for name in ("building", "export", "functional", "graph", "network", "regions")),
)  # fmt: skip
"""Modules of planner.profiling that decide what a stage computes."""


@dataclass(frozen=True)
class Answers:
    """One batch size. `variation`: mean difference of two frames' answers, as a share of the range.

    A network that answers all frames alike would prove nothing; at batch 1 there is none to tell. `exported`
    is None where that comparison was left out: at full size it takes as long as the others.
    """

    batch: int
    eager: float
    exported: float | None
    variation: float | None
    seconds: float


class Kept:
    """Answers of earlier runs of the same code: one JSON file each. `folder` None: nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._code = _code_digest()

    def find(self, model: ModelSpec, batch: int) -> Answers | None:
        """What was found before, if anything."""
        path = self._path(model, batch)
        if path is None or not path.is_file():
            return None
        return Answers(**json.loads(path.read_text(encoding="utf-8")))

    def keep(self, model: ModelSpec, answers: Answers) -> None:
        """Write it down."""
        path = self._path(model, answers.batch)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asdict(answers)), encoding="utf-8")

    def _path(self, model: ModelSpec, batch: int) -> Path | None:
        if self._folder is None:
            return None
        text = f"{self._code} {torch.__version__} {model.model_dump_json()} {batch}"
        return self._folder / f"{model.name}-{batch}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"


def check(each: ZooEntry, *, full: bool, kept: Kept, batches: Sequence[int] = BATCHES) -> dict[str, Any]:
    """Errors over all batch sizes, on the entry's own frames or on small ones."""
    model = each.spec(shape=checked_frame(each, full=full))
    found = [kept.find(model, batch) for batch in batches]
    if not all(found):
        compared = Comparison(model)
        for index, batch in enumerate(batches):
            if found[index] is None:
                answers = compared.answers(batch, exported=not full)
                kept.keep(model, answers)
                found[index] = answers
    known = [each for each in found if each is not None]
    eager = [each.eager for each in known]
    exported = [each.exported for each in known if each.exported is not None]
    variation = [each.variation for each in known if each.variation is not None]
    return {
        "checked_frame": list(input_spec(model).shape),
        "checked_batches": [each.batch for each in known],
        "max_rel_error": max(eager + exported),
        "max_rel_error_eager": max(eager),
        "max_rel_error_exported": max(exported, default=None),
        "variation": min(variation, default=None),
        "check_seconds": round(sum(each.seconds for each in known), 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def checked_frame(each: ZooEntry, *, full: bool) -> Shape:
    """The frame that answers are compared on."""
    return each.shape if full else SMALLEST.get(each.name, SMALL[each.task])


class Comparison:
    """A network, the same exported in one piece, and its blocks."""

    def __init__(self, model: ModelSpec) -> None:
        channels, height, width = input_spec(model).shape
        self._shape = (channels, height, width)
        self._network = load_network(model)
        split = split_model(model, network=self._network)
        ends = range(split.block_count)
        self._exported = [stage_module(split, BlockRange(0, split.block_count))]
        self._blocks = [stage_module(split, BlockRange(k, k + 1)) for k in ends]

    def answers(self, batch: int, *, exported: bool) -> Answers:
        """Run the blocks and the network on `batch` frames, and what was exported in one piece if wanted."""
        started = time.perf_counter()
        frames = torch.cat([noise_frames(self._shape, seed=batch + k)[:1] for k in range(batch)])
        split = run(self._blocks, frames)
        in_one_piece = largest_difference(split, run(self._exported, frames)) if exported else None
        unsplit = run([self._network], frames)
        return Answers(
            batch=batch,
            eager=largest_difference(split, unsplit),
            exported=in_one_piece,
            variation=_variation(unsplit) if batch > 1 else None,
            seconds=time.perf_counter() - started,
        )


def run(modules: Sequence[torch.nn.Module], frames: torch.Tensor) -> list[torch.Tensor]:
    """The output tensors of modules one after another."""
    values: Any = (frames,)
    with torch.inference_mode():
        for module in modules:
            values = module(*values)
    return pytree.tree_leaves(values)


def largest_difference(actual: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """As a share of the wanted output's range; infinite where a value is not finite or shapes differ."""
    if [each.shape for each in actual] != [each.shape for each in wanted]:
        return float("inf")
    shares = [
        float((one - other).abs().max() / (other.max() - other.min()))
        for one, other in zip(actual, wanted, strict=True)
    ]
    return max(share if share == share else float("inf") for share in shares)


def _variation(outputs: Sequence[torch.Tensor]) -> float:
    return min(float((each[0] - each[1]).abs().mean() / (each.max() - each.min())) for each in outputs)


def _code_digest() -> str:
    """Of what decides weights and stage programs."""
    folder = Path(planner.profiling.__path__[0])
    zoo = Path(ensembles.zoo.__path__[0]).glob("*.py")
    networks = [path for path in zoo if path.name != "catalogue.py"]  # its entries are in the names already
    digest = hashlib.sha256()
    for path in sorted([*networks, *map(folder.joinpath, DECIDING)]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
