"""PyTorch models with shift, TaylorShift and SwitchHead mixers; knows nothing of ONNX."""
