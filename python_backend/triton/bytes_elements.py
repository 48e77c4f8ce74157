"""Elements of BYTES tensors as views of them, where Triton's Python backend would copy each once more.

The backend's stub makes an array of a request's tensor, and has `deserialize_bytes_tensor` of its utilities
module make its elements of that, by this name, for each request (pb_tensor.cc; where a release does it
otherwise, nothing changes). For an image the second copy is what costs most there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from python_backend.wire.kserve import Array, element_views


def use_views(backend_utils: Any) -> None:
    """Have the stub, whose utilities module this is, make views. Elements are then memoryviews."""
    backend_utils.deserialize_bytes_tensor = views_of


def views_of(encoded: Array) -> Array:
    """The elements of an encoded tensor, uint8 [bytes]: an array of memoryviews [elements], which keep the
    tensor alive. Raises ValueError where it ends inside an element.
    """
    views = element_views(encoded.data)
    elements: Array = np.empty(len(views), np.object_)
    for index, view in enumerate(views):
        elements[index] = view  # assigned one by one: numpy would take a list of them apart
    return elements
