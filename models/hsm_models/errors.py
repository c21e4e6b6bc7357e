"""Errors that name what was wrong, where, and how to fix it."""


class ModelError(ValueError):
    """Base of every error that hsm_models raises on purpose."""


class ConfigError(ModelError):
    """A model configuration is incomplete, contradictory or has unknown fields."""


class CheckpointError(ModelError):
    """A checkpoint is missing, damaged, hostile, or contradicts its configuration."""


class DataError(ModelError):
    """Training data is missing, too short or malformed."""


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)
