"""TritonPythonModel adapters, the only importers of triton_python_backend_utils."""
