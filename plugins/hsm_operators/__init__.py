"""The operators: one folder a family, with its specification, its maths in PyTorch and NumPy, its kernels and tests."""

from __future__ import annotations

from .definition import register
from .errors import OperatorError
from .operator import (
    DOMAIN,
    IR_VERSION,
    OPSET_VERSION,
    PLUGIN_VERSION,
    VERSION,
    Attribute,
    Cost,
    Dimension,
    Operator,
    Port,
    Routing,
    RowRange,
    Rule,
    State,
)
from .registry import OPERATORS, find, functions_for, inline, make_node, operators, part_of
from .switch import use_kernels
from .translation import translation_table

PLUGIN_NAMESPACE = DOMAIN

__all__ = [
    "DOMAIN",
    "IR_VERSION",
    "OPERATORS",
    "OPSET_VERSION",
    "PLUGIN_NAMESPACE",
    "PLUGIN_VERSION",
    "VERSION",
    "Attribute",
    "Cost",
    "Dimension",
    "Operator",
    "OperatorError",
    "Port",
    "Routing",
    "RowRange",
    "Rule",
    "State",
    "find",
    "functions_for",
    "inline",
    "make_node",
    "operators",
    "part_of",
    "register",
    "translation_table",
    "use_kernels",
]
