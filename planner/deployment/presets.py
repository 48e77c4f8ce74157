"""How well-known libraries prepare a frame, by the names that people know them by.

Each is the library's own arithmetic: tests hold numbers that it gave. Values are in the network's channel
order and in the units of `scale`. Where they stand:

torchvision  transforms/_presets.py ImageClassification, transforms/functional.py (resize, center_crop)
timm         data/transforms_factory.py transforms_imagenet_eval, data/constants.py
clip         openai/CLIP clip/clip.py _transform
mmpretrain   mmpretrain ResizeEdge, CenterCrop, configs/_base_/datasets/imagenet_bs32.py
mmcv         mmcv/image/geometric.py imresize, mmcv/image/photometric.py imnormalize
mmdet        mmdet Resize(keep_ratio), DetDataPreprocessor, configs/_base_/datasets/coco_detection.py
rtmdet       mmdet configs/rtmdet/rtmdet_l_8xb32-300e_coco.py
yolo         ultralytics/data/augment.py LetterBox, engine/predictor.py preprocess
yolox        Megvii-BaseDetection/YOLOX yolox/data/data_augment.py preproc
keras-*      keras/src/applications/imagenet_utils.py preprocess_input, after tf.image.resize
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from planner.ingress import Fit, Order

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MEAN_255, _STD_255 = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""The same in pixels of 0 to 255, as OpenMMLab writes them."""


@dataclass(frozen=True)
class Preset:
    """What a library does where nothing else is said. Where it fills with a colour that has no whole numbers,
    the nearest ones.
    """

    fit: Fit
    order: Order = "rgb"
    scale: float = 1 / 255
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


_CROP = Fit(kind="crop", interpolation="antialias", share=0.875, rounding="down")
_CORNER = Fit(kind="letterbox", anchor="corner", rounding="half-up")
_ZERO, _ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

PLAIN = Preset(fit=Fit())
"""Without a preset: OpenCV's bilinear resize to the network's size, ImageNet's mean and deviation."""
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "torchvision": Preset(fit=_CROP),
        "timm": Preset(fit=Fit(kind="crop", interpolation="bicubic", share=0.875, rounding="down")),
        "clip": Preset(
            fit=Fit(kind="crop", interpolation="bicubic", rounding="down"),
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        ),
        "mmcv": Preset(fit=Fit(), scale=1.0, mean=_MEAN_255, std=_STD_255),
        "mmpretrain": Preset(
            fit=Fit(kind="crop", share=0.875, rounding="down"), scale=1.0, mean=_MEAN_255, std=_STD_255
        ),
        "mmdet": Preset(
            fit=Fit(kind="letterbox", anchor="corner", rounding="half-up", fill=(124, 116, 104)),
            scale=1.0,
            mean=_MEAN_255,
            std=_STD_255,
        ),
        "rtmdet": Preset(fit=_CORNER, order="bgr", scale=1.0, mean=_MEAN_255[::-1], std=_STD_255[::-1]),
        "yolo": Preset(fit=Fit(kind="letterbox"), mean=_ZERO, std=_ONE),
        "yolox": Preset(
            fit=Fit(kind="letterbox", anchor="corner", rounding="down"),
            order="bgr",
            scale=1.0,
            mean=_ZERO,
            std=_ONE,
        ),
        "keras-caffe": Preset(fit=Fit(), order="bgr", scale=1.0, mean=(103.939, 116.779, 123.68), std=_ONE),
        "keras-tf": Preset(fit=Fit(), scale=1 / 127.5, mean=_ONE, std=_ONE),
        "keras-torch": Preset(fit=Fit()),
    }
)
