"""The state that a decoding file carries from call to call, as its metadata describe it."""

from __future__ import annotations

from collections.abc import Mapping

from ..formats.state_spec import METADATA_KEY, StateSpec, TensorSpec
from .result import StateRow, StateTable


def state_table(metadata: Mapping[str, str], where: str) -> StateTable | None:
    """Return the state of a decoding file, None for other files.

    Args:
        metadata: what the exporter recorded, without the prefix `hsm_export.`.
        where: name of the file in errors.

    Raises:
        BadInputError: the description is damaged or of a newer version.
    """
    if "state" not in metadata:
        return None
    spec = StateSpec.from_metadata({METADATA_KEY: metadata["state"]}, where)
    return StateTable(
        tensors=tuple(map(_row, spec.tensors)),
        constant_bytes=spec.bytes_per_sequence(0),
        bytes_per_token=spec.bytes_per_sequence(1) - spec.bytes_per_sequence(0),
        capacity=spec.capacity,
        rollback=spec.rollback,
        last_logits=spec.last_logits,
    )


def _row(tensor: TensorSpec) -> StateRow:
    return StateRow(
        name=tensor.name,
        rollback=tensor.rollback,
        dtype=tensor.dtype,
        shape=tensor.shape,
        spare=tensor.spare,
        constant_bytes=tensor.constant_bytes,
        bytes_per_token=tensor.bytes_per_token,
    )
