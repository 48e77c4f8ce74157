"""Frames that end or hang the process that works on them, for tests of the pool: what `work` names there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from ensembles.prepare.faults import FrameFault
from planner.ingress import PrepareRecipe
from python_backend.wire.kserve import Array, Buffer
from python_backend.wire.ragged import FrameInfo


def pixels_of(info: FrameInfo, frame: Buffer, recipe: PrepareRecipe) -> Array:
    """Frames are texts: 'die'; 'once FILE': die unless the file is there; 'hang'; 'bad'; else a number."""
    del info
    word, _, rest = bytes(frame).decode().partition(" ")
    if word == "die":
        os.abort()
    if word == "once" and not Path(rest).exists():
        Path(rest).touch()
        os.abort()
    if word == "hang":
        time.sleep(60)
    if word == "bad":
        raise FrameFault("a bad word")
    number = int(word) if word.isdigit() else 7
    return np.full((recipe.height, recipe.width, recipe.channels), number, np.uint8)
