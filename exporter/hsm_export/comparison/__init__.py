"""One measure for every command: how far apart two arrays are, how far apart they may be, and what that makes of them.

`error` and `verdict` import NumPy and each other alone: a build kit carries them to machines without the rest.
"""
