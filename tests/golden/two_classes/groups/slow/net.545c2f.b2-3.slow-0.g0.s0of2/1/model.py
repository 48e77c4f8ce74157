"""Written by ppipe generate; config.pbtxt in the folder above says what this is."""

import os

# A slice of a GPU under MPS. CUDA reads this once, when it starts, so it comes before any import of torch.
os.environ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = "50"

from python_backend.triton.stage import TritonPythonModel

__all__ = ["TritonPythonModel"]
