"""CNNs of the pytorchcv package at any input size."""

from __future__ import annotations

import torch
from pytorchcv.model_provider import get_model


def classifier(name: str, size: int | None = None, classes: int = 1000) -> torch.nn.Module:
    """Classifier `name` ('resnet18', 'inceptionv3', ...) at size x size (None: the size it was made for).

    pytorchcv's networks end in average pooling of one fixed window; it is made to take whatever it is given.
    """
    arguments: dict[str, object] = {"pretrained": False, "num_classes": classes}
    if size is not None and _takes_size(name):
        arguments["in_size"] = (size, size)
    network: torch.nn.Module = get_model(name, **arguments)
    features = getattr(network, "features", None)
    if isinstance(features, torch.nn.Module) and isinstance(
        getattr(features, "final_pool", None), torch.nn.AvgPool2d
    ):
        features.final_pool = torch.nn.AdaptiveAvgPool2d(1)
    return network


def _takes_size(name: str) -> bool:
    # EfficientNets check that the size is the one they were made for, and adapt to any.
    return not name.startswith("efficientnet")
