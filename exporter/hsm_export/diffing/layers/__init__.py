"""Runtimes layer by layer: what each node gets wrong itself, and what the file gets wrong of its source."""
