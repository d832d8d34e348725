"""Real spherical harmonics of many directions at once; numbers of one harmonic lie together.

The harmonics of degree l are homogeneous polynomials in the components of a unit vector. Their coefficients come from
e3nn's harmonics (`normalization="component"`, its axis turned to z), which they reproduce to round-off. A few large
products cost, with their gradients, a third of what e3nn's many small ones do.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from torch import Tensor

from finetune.backbones._e3nn import o3


def spherical_harmonics(units: Tensor, lmax: int) -> Tensor:
    """Y_lm with Y_00 = 1, at l² + l + m along the first axis.

    Args:
        units: components of unit vectors along the first axis.
        lmax: largest l.
    """
    x, y, z = units.flatten(1).split(1)
    monomials = torch.ones_like(x)
    rows = [monomials]
    for l in range(1, lmax + 1):
        # those of degree l - 1 times x, those without x times y, the one without x and y times z
        monomials = torch.cat([x * monomials, y * monomials[-l:], z * monomials[-1:]])
        rows.append(torch.as_tensor(_coefficients(l), dtype=units.dtype, device=units.device) @ monomials)
    return torch.cat(rows).view(-1, *units.shape[1:])


@functools.cache
def _coefficients(l: int) -> np.ndarray:
    """Coefficients of the monomials of degree l in the harmonics, shape (2 l + 1, monomials)."""
    factors = list(itertools.combinations_with_replacement(range(3), l))
    points = np.random.default_rng(0).normal(size=(8 * len(factors), 3))
    points /= np.linalg.norm(points, axis=1)[:, None]
    design = np.stack([points[:, list(components)].prod(axis=1) for components in factors], axis=1)
    turned = torch.from_numpy(points[:, [1, 2, 0]])
    values = o3.spherical_harmonics(l, turned, normalize=False, normalization="component").numpy()
    return np.asarray(np.linalg.lstsq(design, values, rcond=None)[0].T)
