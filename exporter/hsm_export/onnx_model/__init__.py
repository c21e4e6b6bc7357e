"""The opened ONNX file: the one reader of the format, and what can be asked of a graph without running it."""
