"""The 18 networks of the zoo as deployment entries: where each comes from and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.deployment import ModelSpec, ProgramSpec, TensorSpecModel


@dataclass(frozen=True)
class ZooEntry:
    """A network: import path, arguments, frame shape, task. `note` says where it is not the original.

    `sized`: the factory takes the frame's size as its argument `size`.
    """

    name: str
    factory: str
    shape: tuple[int, int, int]
    task: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    sized: bool = False
    note: str = ""

    def spec(
        self, slo_ms: float = 100.0, shape: tuple[int, int, int] | None = None, **more: Any
    ) -> ModelSpec:
        """The entry as a deployment's model, at its own frame size or at `shape`."""
        shape = shape or self.shape
        arguments = {**self.arguments, **({"size": shape[-1]} if self.sized else {})}
        return ModelSpec(
            name=self.name,
            program=ProgramSpec(factory=self.factory, arguments=arguments),
            input=TensorSpecModel(name="image", shape=shape),
            slo_ms=slo_ms,
            **more,
        )


def _pytorchcv(name: str, size: int) -> ZooEntry:
    return ZooEntry(
        name=name,
        factory="ensembles.zoo.pytorchcv_models:classifier",
        shape=(3, size, size),
        task="classification",
        arguments={"name": name},
        sized=True,
    )


def _own(
    name: str, factory: str, shape: tuple[int, int, int], task: str, note: str = "", **arguments: Any
) -> ZooEntry:
    return ZooEntry(
        name=name, factory=f"ensembles.zoo.{factory}", shape=shape, task=task, arguments=arguments, note=note
    )


CITY = (3, 512, 1024)
COCO = (3, 640, 640)
RAW_LOGITS = "logits at an eighth of the frame; resizing them is postprocessing"
RAW_MAPS = "raw maps; decoding boxes and choosing among them is postprocessing"

ZOO: tuple[ZooEntry, ...] = (
    _own("convnext_large", "classification:convnext_large", (3, 224, 224), "classification"),
    _pytorchcv("efficientnet_b8", 672),
    _pytorchcv("inceptionv3", 299),
    _own(
        "repvgg_b3", "classification:repvgg_b3", (3, 224, 224), "classification", "with its branches merged"
    ),
    _own("wide_resnet101_2", "classification:wide_resnet101_2", (3, 224, 224), "classification"),
    *(
        _own(f"{head}_r101", "segmentation:segmenter", CITY, "segmentation", RAW_LOGITS, head=head)
        for head in ("fcn", "encnet", "danet", "apcnet", "gcnet", "dnl", "nonlocal")
    ),
    _own("atss_r101", "detection:atss", COCO, "detection", RAW_MAPS),
    _own("centernet_r50", "detection:centernet", COCO, "detection", RAW_MAPS),
    _own("fsaf_r101", "detection:fsaf", COCO, "detection", RAW_MAPS),
    _own("gfl_r101", "detection:gfl", COCO, "detection", RAW_MAPS),
    _own("rtmdet_x", "rtmdet:rtmdet_x", COCO, "detection", RAW_MAPS),
    _own("colorization", "colorization:colorizer", (1, 256, 256), "colorization", "colours as 313 logits"),
)


def entry(name: str) -> ZooEntry:
    """The entry called `name`. Raises KeyError."""
    for each in ZOO:
        if each.name == name:
            return each
    raise KeyError(f"no network {name!r} in the zoo; it has {', '.join(each.name for each in ZOO)}")
