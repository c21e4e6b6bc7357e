"""Compile, run and judge an engine with nothing but TensorRT and NumPy.

A build kit carries a copy of this folder, and of `comparison.error` and `comparison.verdict`, to the GPU machine, where
the rest of the package is not installed. So its modules import Python's own, NumPy and each other; TensorRT, or
TensorRT-RTX, comes in as the argument `trt`.
"""
