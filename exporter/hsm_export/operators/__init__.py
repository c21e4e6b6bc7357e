"""Operators of one's own: what is made of them and how they are tested."""
