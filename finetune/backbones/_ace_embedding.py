"""Embedding of densities in an energy, as in Finnis-Sinclair potentials."""

from __future__ import annotations

import torch
from torch import Tensor


def embedded(rho: Tensor, exponent: float) -> Tensor:
    """F(rho): rho itself, or its power with a finite slope at 0, odd in rho (`FinnisSinclairShiftedScaled`)."""
    if exponent == 1:
        return rho
    sign = torch.where(rho < 0, -1.0, 1.0).to(rho.dtype)
    size = sign * rho  # not rho.abs(), whose slope at 0 is 0
    near, inverse = torch.exp(-size), 1 / exponent
    power = (inverse ** (inverse / (1 - inverse)) * near + size) ** exponent
    return sign * (power - inverse ** (1 / (1 - inverse)) * near)
