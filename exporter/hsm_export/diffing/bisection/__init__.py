"""The smallest set of nodes that makes an output fail."""
