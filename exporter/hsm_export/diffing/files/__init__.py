"""What changed from one ONNX file to another: structure, weights, functions and numbers."""
