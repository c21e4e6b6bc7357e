"""One table of element types: each library's own names agree with it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from hsm_export.building.portable import running
from hsm_export.dtypes import (
    BY_NAME,
    BY_ONNX,
    BY_PRECISION,
    ELEMENT_TYPES,
    ElementType,
    element_name,
    is_float,
    item_size,
)


def test_every_type_of_onnx_has_a_row() -> None:
    assert {name: value for name, value in onnx.TensorProto.DataType.items() if value} == {
        item.onnx_name: item.onnx for item in ELEMENT_TYPES
    }


@pytest.mark.parametrize("item", ELEMENT_TYPES, ids=lambda item: str(item.name))
def test_a_row_agrees_with_onnx_and_numpy(item: ElementType) -> None:
    assert item.numpy == helper.tensor_dtype_to_np_dtype(item.onnx)
    if item.name != "string":
        assert item.numpy.name == item.name
    if item.bits >= 8:
        assert item.numpy.itemsize == item.itemsize == item_size(item.onnx)
    assert is_float(item.onnx) == bool(item.precision)


@pytest.mark.parametrize("item", BY_PRECISION.values(), ids=lambda item: str(item.precision))
def test_a_precision_agrees_with_torch(item: ElementType) -> None:
    facts = torch.finfo(item.torch)
    assert (facts.bits, facts.eps) == (item.bits, item.epsilon)
    if item.largest:
        assert facts.max == item.largest


def test_a_kit_that_runs_without_the_toolkit_has_the_same_names() -> None:
    names = {item.tensorrt or item.name: item for item in ELEMENT_TYPES}
    for name, kind in running._TYPES.items():
        assert names[name.lower()].numpy == np.dtype(kind)


def test_what_onnx_does_not_define_has_no_name_and_no_size() -> None:
    assert (element_name(0), element_name(77), item_size(0), item_size(77)) == ("", "", 0.0, 0.0)
    assert not is_float(77)
    assert BY_ONNX[16] is BY_NAME["bfloat16"]
