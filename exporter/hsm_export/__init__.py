"""Export PyTorch models with HSM, TaylorShift and SwitchHead mixers, and prove that every runtime keeps their numbers."""
