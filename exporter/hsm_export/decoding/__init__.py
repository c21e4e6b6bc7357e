"""Decoding with a state: what a sequence carries from call to call, sessions that run it, and text generation."""
