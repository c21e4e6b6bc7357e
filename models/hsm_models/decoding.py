"""A language model's decoding step as a module whose forward takes and returns plain tensors."""

from __future__ import annotations

from torch import Tensor

from .language_model import LanguageModel


class DecodingModel(LanguageModel):
    """The next tokens of each row and its state, to logits and the new state.

    Make it with `of`.

    Attributes:
        last_logits: return the logits of each row's last valid token only.
        state_names: the keys of `LanguageModel.state_entries`, in the order in which forward takes and returns them.
    """

    last_logits: bool
    state_names: tuple[str, ...]

    @classmethod
    def of(cls, model: LanguageModel, last_logits: bool = False) -> DecodingModel:
        """Return the decoding step of a model; it shares the model's layers and weights."""
        step = cls.__new__(cls)
        step.__dict__.update(model.__dict__)
        step.last_logits = last_logits
        step.state_names = tuple(model.state_entries())
        return step

    def forward(self, tokens: Tensor, position: Tensor, lengths: Tensor, *past: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Call `forward_cached` with the state's tensors in the order of `state_names`.

        Returns:
            The logits, then the new state's tensors in the same order.

        Raises:
            ValueError: as `forward_cached`, or another number of state tensors.
        """
        state = dict(zip(self.state_names, past, strict=True))
        logits, state = self.forward_cached(tokens, state, position, lengths, self.last_logits)
        return (logits, *(state[name] for name in self.state_names))
