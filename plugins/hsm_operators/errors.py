"""What is wrong with an operator that somebody adds."""

from __future__ import annotations


class OperatorError(ValueError):
    """An operator cannot be added or used as it is.

    Attributes:
        message: what is wrong, and where.
        hint: how to put it right; "" where the message says so.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.message = message
        self.hint = hint
