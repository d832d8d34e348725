"""Irreducible representations of rotations by e3nn, imported so that it starts on every torch."""

import warnings

import torch

torch.serialization.add_safe_globals([slice])  # e3nn 0.4 reads its constants with weights_only
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch.jit.script is deprecated
    from e3nn import o3

__all__ = ["o3"]
