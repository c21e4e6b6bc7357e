"""The PyTorch model that a file is made from, or held against."""
