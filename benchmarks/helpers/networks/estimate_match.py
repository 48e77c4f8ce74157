"""Which network of the zoo stands for a model of measured data, told by the names of public configurations.

Rules
- The same network: family, size and backbone agree. What follows in the name (training schedule, data set)
  makes no difference to the layers.
- A substitute: only the family agrees. It is compared, and reported apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ensembles.zoo.catalogue import ZooEntry, entry

SAME = {
    "convnext_large": r"convnext_l(arge)?(?![a-z])",
    "efficientnet_b8": r"efficientnet_?b8",
    "inceptionv3": r"inception_?v3",
    "repvgg_b3": r"repvgg_?b3(?!g)",
    "wide_resnet101_2": r"(wide_?resnet|wrn)_?101",
    **{
        f"{head}_r101": rf"{head}(_?net)?_(r|resnet)_?101"
        for head in ("fcn", "encnet", "danet", "apcnet", "gcnet", "dnl", "nonlocal", "atss", "fsaf", "gfl")
    },
    "centernet_r50": r"centernet(2|_update)?_(r|resnet)_?50",
    "rtmdet_x": r"rtmdet_x(?![a-z])",
    "colorization": r"(colori[sz]|colorful|eccv_?16)",
}
FAMILY = {
    "convnext_large": "convnext",
    "efficientnet_b8": "efficientnet",
    "inceptionv3": "inception",
    "repvgg_b3": "repvgg",
    "wide_resnet101_2": "(wide_?resnet|wrn)",
    **{
        f"{head}_r101": rf"{head}(_|net|$)"
        for head in ("fcn", "encnet", "danet", "apcnet", "gcnet", "dnl", "nonlocal", "atss", "fsaf", "gfl")
    },
    "centernet_r50": "centernet",
    "rtmdet_x": "rtmdet",
    "colorization": "(siggraph_?17|.*color)",
}


@dataclass(frozen=True)
class Match:
    """`same`: the network itself, else the nearest of its family."""

    entry: ZooEntry
    same: bool


def match(name: str) -> Match | None:
    """The zoo's network for a model of that name, if it has one."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower())
    for patterns, same in ((SAME, True), (FAMILY, False)):
        for zoo_name, pattern in patterns.items():
            if re.match(pattern, plain):
                return Match(entry=entry(zoo_name), same=same)
    return None
