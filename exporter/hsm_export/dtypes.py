"""The table of element types: what each is called in every library that the toolkit meets.

Nothing here imports a framework; `ElementType.numpy` and `ElementType.torch` import theirs when they are asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch


@dataclass(frozen=True)
class ElementType:
    """One type of a tensor's elements.

    Attributes:
        name: NumPy's name, that of `ml_dtypes` where NumPy has none ("float32", "bfloat16"); "string" for text.
        onnx: the value in ONNX's enumeration `TensorProto.DataType`.
        onnx_name: the name there ("FLOAT").
        bits: the size of one element; 0 for text.
        precision: the word for a model whose weights have this type ("fp32"); "" where that is not said.
        digits: binary digits behind the point of a floating-point number near 1; 0 for other types.
        largest: the largest finite number of a floating-point type below float32; 0.0 for other types.
        triton: Triton's name ("TYPE_FP32"); "" where the toolkit serves no such type.
        tensorrt: TensorRT's name in lower case ("float"); "" where it is `name`.
        safetensors: the name in a safetensors file ("F32"); "" where checkpoints do not hold it.
    """

    name: str
    onnx: int
    onnx_name: str
    bits: int
    precision: str = ""
    digits: int = 0
    largest: float = 0.0
    triton: str = ""
    tensorrt: str = ""
    safetensors: str = ""

    @property
    def is_float(self) -> bool:
        """Whether it is one of the types of floating-point numbers that models compute in."""
        return self.digits > 0

    @property
    def is_integer(self) -> bool:
        """Whether it holds integers."""
        return self.name.startswith(("int", "uint"))

    @property
    def is_foreign(self) -> bool:
        """Whether arrays of it cannot be exchanged with runtimes, in it or in another one: below 8 bits, and float8."""
        return 0 < self.bits < 8 or self.name.startswith("float8")

    @property
    def epsilon(self) -> float:
        """The distance from 1 to the next number."""
        return 2.0**-self.digits

    @property
    def most(self) -> float:
        """The largest finite number of a floating-point type."""
        import numpy as np

        return self.largest or float(np.finfo(self.name).max)

    @property
    def itemsize(self) -> float:
        """The size of one element in bytes; a half for 4 bits."""
        return self.bits / 8

    @property
    def ort_name(self) -> str:
        """What ONNX Runtime calls a tensor of it ("tensor(float)")."""
        return f"tensor({self.onnx_name.lower()})"

    @property
    def numpy(self) -> np.dtype[Any]:
        """NumPy's type; that of `ml_dtypes` where NumPy has none, and of Python objects for text."""
        import numpy as np

        if self.name == "string":
            return np.dtype(object)
        try:
            return np.dtype(self.name)
        except TypeError:
            import ml_dtypes

            found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, self.name))
            return found

    @property
    def torch(self) -> torch.dtype:
        """PyTorch's type.

        Raises:
            AttributeError: PyTorch has no such type.
        """
        import torch

        found: torch.dtype = getattr(torch, self.name)
        return found


# The first four are the precisions of models.
_HALF, _BRAIN = 65504.0, float.fromhex("0x1.fep127")
ELEMENT_TYPES = (
    ElementType("float32", 1, "FLOAT", 32, "fp32", 23, 0.0, "TYPE_FP32", "float", "F32"),
    ElementType("float16", 10, "FLOAT16", 16, "fp16", 10, _HALF, "TYPE_FP16", "half", "F16"),
    ElementType("bfloat16", 16, "BFLOAT16", 16, "bf16", 7, _BRAIN, "TYPE_BF16", "bf16", "BF16"),
    ElementType("float64", 11, "DOUBLE", 64, "fp64", 52, 0.0, "TYPE_FP64", "double", "F64"),
    ElementType("int64", 7, "INT64", 64, triton="TYPE_INT64"),
    ElementType("int32", 6, "INT32", 32, triton="TYPE_INT32"),
    ElementType("int16", 5, "INT16", 16),
    ElementType("int8", 3, "INT8", 8, triton="TYPE_INT8"),
    ElementType("uint8", 2, "UINT8", 8, triton="TYPE_UINT8"),
    ElementType("bool", 9, "BOOL", 8, triton="TYPE_BOOL"),
    ElementType("uint16", 4, "UINT16", 16),
    ElementType("uint32", 12, "UINT32", 32),
    ElementType("uint64", 13, "UINT64", 64),
    ElementType("string", 8, "STRING", 0),
    ElementType("complex64", 14, "COMPLEX64", 64),
    ElementType("complex128", 15, "COMPLEX128", 128),
    ElementType("float8_e4m3fn", 17, "FLOAT8E4M3FN", 8),
    ElementType("float8_e4m3fnuz", 18, "FLOAT8E4M3FNUZ", 8),
    ElementType("float8_e5m2", 19, "FLOAT8E5M2", 8),
    ElementType("float8_e5m2fnuz", 20, "FLOAT8E5M2FNUZ", 8),
    ElementType("uint4", 21, "UINT4", 4),
    ElementType("int4", 22, "INT4", 4),
    ElementType("float4_e2m1fn", 23, "FLOAT4E2M1", 4),
    ElementType("float8_e8m0fnu", 24, "FLOAT8E8M0", 8),
    ElementType("uint2", 25, "UINT2", 2),
    ElementType("int2", 26, "INT2", 2),
    ElementType("float6_e2m3fn", 27, "FLOAT6E2M3", 6),
    ElementType("float6_e3m2fn", 28, "FLOAT6E3M2", 6),
)

BY_NAME = {item.name: item for item in ELEMENT_TYPES}
BY_ONNX = {item.onnx: item for item in ELEMENT_TYPES}
BY_SAFETENSORS = {item.safetensors: item for item in ELEMENT_TYPES if item.safetensors}
# By the word for a model's precision, float64 among them.
BY_PRECISION = {item.precision: item for item in ELEMENT_TYPES if item.precision}
EPSILON = {word: item.epsilon for word, item in BY_PRECISION.items()}
# What models with our mixers are written in; plain modules, and files of somebody else's, may also be fp64.
EXPORTED_PRECISIONS = ("fp32", "fp16", "bf16")
WRITTEN_PRECISIONS = (*EXPORTED_PRECISIONS, "fp64")
# Types whose values are equal or wrong, and that arrays hold one a byte or more.
EXACT = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
# ONNX's values of the types that promoting to float64 widens.
WIDENED = tuple(BY_PRECISION[word].onnx for word in EXPORTED_PRECISIONS)


def element_name(onnx_type: int) -> str:
    """Return the name of an ONNX element type, "" for none and for values that ONNX does not define."""
    found = BY_ONNX.get(onnx_type)
    return found.name if found else ""


def is_float(onnx_type: int) -> bool:
    """Return whether an ONNX element type is one of the floating-point types that models compute in."""
    return onnx_type in BY_ONNX and BY_ONNX[onnx_type].is_float


def item_size(onnx_type: int) -> float:
    """Return the size in bytes of an ONNX element type: a half for 4 bits, 0 for text and unknown ones."""
    return BY_ONNX[onnx_type].itemsize if onnx_type in BY_ONNX else 0.0
