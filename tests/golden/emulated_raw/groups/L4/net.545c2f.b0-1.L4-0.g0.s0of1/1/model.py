"""Written by ppipe generate; config.pbtxt in the folder above says what this is."""

from python_backend.triton.stage import TritonPythonModel

__all__ = ["TritonPythonModel"]
