"""A module of the user's: out of its wrappers, and copied, also into another type; it is never changed itself."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import BadInputError, HsmExportError, first_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@contextlib.contextmanager
def guarded(what: str, hint: str | None = None) -> Iterator[None]:
    """Turn whatever the user's code raises inside the block into a BadInputError of one line.

    Args:
        what: what was done, as the subject of a sentence, such as "Model.state_dict()".
        hint: what the user can do about it.
    """
    try:
        yield
    except HsmExportError:
        raise
    except Exception as error:  # the user's code raises what it likes
        raise BadInputError(f"{what} fails: {type(error).__name__}: {first_line(error)}", hint) from error


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside torch.compile, DataParallel and DistributedDataParallel."""
    import torch

    while True:
        if isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
            module = module.module
        elif hasattr(module, "_orig_mod"):
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


def copied(module: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a copy of a module outside its wrappers, in evaluation mode; the user's own is left as it is.

    Parameters that keep their type share their memory with the module's own; buffers and other tensors are copied.

    Args:
        module: any module.
        dtype: type of the copy's floating-point parameters, buffers and attributes; complex ones get the complex type
            of the same precision, or complex64 where there is none. None keeps all types.

    Raises:
        BadInputError: the module was scripted or traced, has not got its weights yet, or cannot be copied.
    """
    import torch

    module = unwrapped(module)
    name = type(module).__name__
    _refuse_unusable(module, name)
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in _attributes(part):
            if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
                memo[id(value)] = _in_type(value.detach(), dtype).clone()
    for parameter in module.parameters():
        memo[id(parameter)] = torch.nn.Parameter(_in_type(parameter.detach(), dtype), requires_grad=False)
    kept = dict(memo)
    with guarded(f"copying {name}", "keep what cannot be copied outside of the module"):
        try:
            result = copy.deepcopy(module, memo)
        except Exception:  # something among the attributes, such as a lock: the copy shares it
            result = copy.deepcopy(module, kept | _shared(module, kept))
    for part in result.modules():
        part.__dict__.pop("_compiled_call_impl", None)
        for key, child in part._modules.items():
            part._modules[key] = None if child is None else unwrapped(child)
    return result.eval()


def with_computed_weights(module: nn.Module) -> nn.Module:
    """Compute the parametrised weights of a copied module (`torch.nn.utils.parametrize`) once, in place; return it.

    In evaluation mode they are constants, and ONNX lacks what some are made with, such as the exponential of a matrix.
    """
    import torch
    from torch.nn.utils import parametrize

    for part in list(module.modules()):
        if not parametrize.is_parametrized(part):
            continue
        names = list(part.parametrizations)  # type: ignore[arg-type]
        with guarded(f"computing the parametrised weights of {type(part).__name__}"), torch.no_grad():
            weights = {name: getattr(part, name).detach().clone() for name in names}
        # Not by PyTorch's own function: it takes the property from the class, which is the user's module's too.
        part.__class__ = type(part).__bases__[0]
        del part.parametrizations
        for name, weight in weights.items():
            part.register_parameter(name, torch.nn.Parameter(weight, requires_grad=False))
    return module


def _refuse_unusable(module: nn.Module, name: str) -> None:
    """Refuse modules without Python code or without weights."""
    import torch

    for path, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise BadInputError(
                f"{path or name} is scripted or traced by torch.jit, which keeps no Python code to export",
                "pass the nn.Module that it was made from",
            )
    for path, value in (*module.named_parameters(), *module.named_buffers()):
        if torch.nn.parameter.is_lazy(value):
            raise BadInputError(
                f"{path} of {name} has no shape yet: it belongs to a lazy module",
                "call the module once with real inputs, and train it, before it is exported",
            )
        if value.device.type == "meta":
            raise BadInputError(
                f"{path} of {name} is on the meta device: its weights are not loaded",
                "load them, as in module.to_empty(device='cpu') and module.load_state_dict(weights)",
            )


def _attributes(part: nn.Module) -> Iterator[Any]:
    """Yield a module's attributes and buffers, and what its lists, tuples and dicts hold."""
    found = [value for key, value in vars(part).items() if key not in ("_parameters", "_modules")]
    seen = set()
    while found:
        value = found.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            found += value.values()
        elif isinstance(value, (list, tuple)):
            found += value
        else:
            yield value


def _shared(module: nn.Module, memo: dict[int, Any]) -> dict[int, Any]:
    """Return the attributes that cannot be copied, as deepcopy's memo of themselves."""
    found = {}
    for part in module.modules():
        for value in _attributes(part):
            try:
                copy.deepcopy(value, dict(memo))
            except Exception:  # whatever its class raises
                found[id(value)] = value
    return found


def _in_type(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    import torch

    if dtype is None or not (value.is_floating_point() or value.is_complex()):
        return value
    if value.is_complex():
        return value.to(torch.complex128 if dtype is torch.float64 else torch.complex64)
    return value.to(dtype)
