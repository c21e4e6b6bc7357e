"""What an hour with a GPU is for: numbers of every CUDA kernel, sanitizers, times against peers. See `__main__`."""
