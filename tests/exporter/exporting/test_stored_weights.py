"""Weights lie in a file as products take them; the file says which weight of the source each one is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.exporter.exporting.models import MIXERS, language_model

import hsm_export
from hsm_export.diffing.layers.source_weights import changed_weights
from hsm_export.errors import BadInputError
from hsm_export.onnx_model.model_file import open_model
from hsm_export.onnx_model.stored_weights import METADATA, stored_weights
from hsm_export.runtimes.runtime import RunContext


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_products_read_weights_and_the_file_names_their_source(precision: str, tmp_path: Path) -> None:
    source, path = language_model(*MIXERS["hybrid"]), tmp_path / "m.onnx"
    hsm_export.export(source, output=path, precision=precision)
    model = onnx.load(path)
    initialisers = {tensor.name: tensor for tensor in model.graph.initializer}
    stored = stored_weights(model)
    parameters = source.state_dict()
    assert set(stored) <= set(initialisers) and set(stored).isdisjoint(parameters)
    for name, place in stored.items():
        own = onnx.numpy_helper.to_array(initialisers[name])
        np.testing.assert_array_equal(own, place.of_source(parameters[place.name].numpy()).astype(own.dtype))
    turned = {node.input[0] for node in model.graph.node if node.op_type == "Transpose"} & set(initialisers)
    assert turned <= {"embedding.weight"}  # the table of tokens is stored once
    linear = {f"{name}.weight" for name, part in source.named_modules() if isinstance(part, torch.nn.Linear)}
    assert linear - turned <= {place.name for place in stored.values()} | set(initialisers)


def test_a_weight_of_another_source_is_named_as_there(tmp_path: Path) -> None:
    source, path = language_model(*MIXERS["hsm-gated2"]), tmp_path / "m.onnx"
    hsm_export.export(source, output=path)
    file = open_model(path)
    name = next(iter(stored_weights(file.model).values())).name
    context = RunContext(file.model, path.parent, file.precision, lambda: source)
    found, compared = changed_weights(context)
    assert not found and compared > len(stored_weights(file.model))
    with torch.no_grad():
        dict(source.named_parameters())[name][0, 0] += 1
    assert changed_weights(context)[0] == (name,)


@pytest.mark.parametrize("text", ["[]", '{"w.T": 3}', '{"w.T": ["w", [0, 0]]}', '{"w.T": [1, [0]]}', "{"])
def test_malformed_metadata(text: str) -> None:
    model = onnx.ModelProto()
    model.metadata_props.add(key=METADATA, value=text)
    with pytest.raises(BadInputError, match="malformed"):
        stored_weights(model)


def test_portable_files_say_nothing_of_sizes_that_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    hsm_export.export(language_model(*MIXERS["hybrid"]), output=path, portable=True)
    for value in onnx.load(path).graph.value_info:
        assert all(dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim), value.name
