"""Weights in fewer bits within a proved budget: `quantize` finds the cheapest form of each that the budget allows."""

from .quantising import QuantiseResult as QuantiseResult
from .quantising import quantize as quantize
