"""Weights in fewer bits within a proved budget: `quantize` finds for each weight the cheapest form that the budget allows."""

from .quantising import QuantiseResult as QuantiseResult
from .quantising import quantize as quantize
