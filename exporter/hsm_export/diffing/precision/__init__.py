"""Which nodes must stay in float32 for a target error."""
