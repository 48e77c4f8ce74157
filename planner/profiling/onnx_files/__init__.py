"""ONNX files behind the interface of planner.profiling.network."""
