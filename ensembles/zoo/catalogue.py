"""The 18 networks of the zoo as deployment entries: where each comes from and what it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.deployment import ModelSpec, PostprocessSpec, PreprocessSpec, ProgramSpec, TensorSpecModel

IMAGENET = PreprocessSpec()
LIGHTNESS = PreprocessSpec(mean=0.5, std=1.0)
"""Of the one channel that a colouriser takes."""


@dataclass(frozen=True)
class ZooEntry:
    """A network: import path, arguments, frame shape, task.

    `sized`: the factory takes the frame's size as its argument `size`. `package`: whose code it is; the
    project's own is written from the papers that its modules name. `family`: what it stands for, the paper's
    name. `note`: where it is not the original in full.
    """

    name: str
    factory: str
    shape: tuple[int, int, int]
    task: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    sized: bool = False
    package: str = "own"
    family: str = ""
    note: str = ""

    @property
    def preprocess(self) -> PreprocessSpec:
        """Encoded frames to the network's input."""
        return LIGHTNESS if self.task == "colorization" else IMAGENET

    @property
    def postprocess(self) -> PostprocessSpec | None:
        """The network's output to an answer; None: raw maps, which are decoded by who asked."""
        if self.task in ("classification", "segmentation"):
            return PostprocessSpec.model_validate({"task": self.task})
        return None

    def spec(
        self, slo_ms: float = 100.0, shape: tuple[int, int, int] | None = None, **more: Any
    ) -> ModelSpec:
        """The entry as a deployment's model, at its own frame size or at `shape`.

        `more`: other fields of the model; pre- and postprocessing are the entry's own without them.
        """
        shape = shape or self.shape
        more = {"preprocess": self.preprocess, "postprocess": self.postprocess, **more}
        arguments = {**self.arguments, **({"size": shape[-1]} if self.sized else {})}
        return ModelSpec(
            name=self.name,
            program=ProgramSpec(factory=self.factory, arguments=arguments),
            input=TensorSpecModel(name="image", shape=shape),
            slo_ms=slo_ms,
            **more,
        )


def _pytorchcv(name: str, family: str, size: int) -> ZooEntry:
    return ZooEntry(
        name=name,
        factory="ensembles.zoo.pytorchcv_models:classifier",
        shape=(3, size, size),
        task="classification",
        arguments={"name": name},
        sized=True,
        package="pytorchcv",
        family=family,
    )


def _own(
    name: str,
    family: str,
    factory: str,
    shape: tuple[int, int, int],
    task: str,
    note: str = "",
    **arguments: Any,
) -> ZooEntry:
    return ZooEntry(
        name=name,
        factory=f"ensembles.zoo.{factory}",
        shape=shape,
        task=task,
        arguments=arguments,
        family=family,
        note=note,
    )


PHOTO = (3, 224, 224)
CITY = (3, 512, 1024)
COCO = (3, 640, 640)
RAW_LOGITS = "logits at an eighth of the frame; resizing them is postprocessing"
RAW_MAPS = "raw maps; decoding boxes and choosing among them is postprocessing"
MERGED = "as it is served, its branches merged"
SEGMENTERS = {
    "fcn": "FCN", "encnet": "EncNet", "danet": "DANet", "apcnet": "APCNet", "gcnet": "GCNet", "dnl": "DNL",
    "nonlocal": "Non-local",
}  # fmt: skip

ZOO: tuple[ZooEntry, ...] = (
    _own("convnext_large", "ConvNeXt-Large", "classification:convnext_large", PHOTO, "classification"),
    _pytorchcv("efficientnet_b8", "EfficientNet-B8", 672),
    _pytorchcv("inceptionv3", "Inception-v3", 299),
    _own("repvgg_b3", "RepVGG-B3", "classification:repvgg_b3", PHOTO, "classification", MERGED),
    _own("wide_resnet101_2", "Wide-ResNet-101-2", "classification:wide_resnet101_2", PHOTO, "classification"),
    *(
        _own(
            f"{head}_r101",
            f"{family}, ResNet-101",
            "segmentation:segmenter",
            CITY,
            "segmentation",
            RAW_LOGITS,
            head=head,
        )
        for head, family in SEGMENTERS.items()
    ),
    _own("atss_r101", "ATSS, ResNet-101", "detection:atss", COCO, "detection", RAW_MAPS),
    _own(
        "centernet_r50", "CenterNet (update), ResNet-50", "detection:centernet", COCO, "detection", RAW_MAPS
    ),
    _own("fsaf_r101", "FSAF, ResNet-101", "detection:fsaf", COCO, "detection", RAW_MAPS),
    _own("gfl_r101", "GFL, ResNet-101", "detection:gfl", COCO, "detection", RAW_MAPS),
    _own("rtmdet_x", "RTMDet-x", "rtmdet:rtmdet_x", COCO, "detection", RAW_MAPS),
    _own(
        "colorization",
        "Colorful Image Colorization",
        "colorization:colorizer",
        (1, 256, 256),
        "colorization",
        "colours as 313 logits",
    ),
)


def entry(name: str) -> ZooEntry:
    """The entry called `name`. Raises KeyError."""
    for each in ZOO:
        if each.name == name:
            return each
    raise KeyError(f"no network {name!r} in the zoo; it has {', '.join(each.name for each in ZOO)}")
