"""The ONNX operators of domain `hsm`, version 1: signatures, bodies, and the way from PyTorch to them."""

from __future__ import annotations

from .operator import DOMAIN, OPSET_VERSION, PLUGIN_NAMESPACE, PLUGIN_VERSION, VERSION, Attribute, Operator, Value
from .registry import OPERATORS, functions_for, inline, make_node
from .translation import translation_table

__all__ = [
    "DOMAIN",
    "OPERATORS",
    "OPSET_VERSION",
    "PLUGIN_NAMESPACE",
    "PLUGIN_VERSION",
    "VERSION",
    "Attribute",
    "Operator",
    "Value",
    "functions_for",
    "inline",
    "make_node",
    "translation_table",
]
