"""The one table of tolerances, each with its reason; tests name them and hold no numbers of their own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike


class Tolerance(NamedTuple):
    """Largest absolute difference that counts as equal, and why it is this large."""

    absolute: float
    why: str


TOLERANCES = {
    "identity, float64": Tolerance(1e-9, "the same sum in another order; energies are up to 500 eV"),
    "identity, float32": Tolerance(1e-4, "the same sum in another order, weights with 7 digits; eV per structure"),
    "rotation, float64": Tolerance(1e-7, "coupling coefficients of a model that was stored with 7 digits"),
    "rotation, float32": Tolerance(1e-4, "as the identities"),
    "finite difference": Tolerance(2e-6, "central differences of 1e-4 Å: h² F'' and the round-off 1e-12 eV / h"),
    "linear fit": Tolerance(1e-8, "least squares of values of some eV, well conditioned up to 1e5"),
    "cutoff": Tolerance(1e-7, "two structures on both sides of the cutoff, 1e-9 Å apart"),
    "float32 forces": Tolerance(
        5e-5, "400 units in the last place of 1 eV/Å, from sums over edges and layers; kernels make 50 to 200"
    ),
    "same graph": Tolerance(1e-6, "Å after 20 steps in single precision; some kernels round by the place in memory"),
    "float32 energy": Tolerance(2e-5, "the same, eV per atom"),
    "float32 stress": Tolerance(2e-6, "the same, eV/Å³"),
    "upstream energy, float64": Tolerance(1e-6, "chgnet sums its atomic energies in single precision; eV per atom"),
    "upstream, float64": Tolerance(1e-7, "the same network and graph; eV/Å, eV/Å³, Bohr magnetons"),
    "upstream energy, float32": Tolerance(
        1e-5, "20 units in the last place of 4 eV per atom; other kernels and orders of the sum make 1 to 2"
    ),
    "upstream, float32": Tolerance(
        3e-4, "chgnet's own float32 builds bond lengths and angles in single precision and is off by 1e-4 eV/Å"
    ),
    "float32 grade": Tolerance(
        1e-3, "seven digits of the descriptors, times the size of the inverse of the active set"
    ),
    "closed form": Tolerance(1e-6, "normal equations without a ridge square the condition of the design; eV, eV/Å"),
    "yace energy": Tolerance(1e-6, "what the file promises to keep; eV"),
    "yace forces": Tolerance(1e-5, "the same, eV/Å"),
    "yace stress": Tolerance(1e-6, "the same, eV/Å³"),
    "processes": Tolerance(1e-5, "averages of the logged single precision numbers over other groups of frames"),
    "printed": Tolerance(1e-5, "extended XYZ holds 8 decimals, the loss is logged in single precision"),
}


def close(actual: ArrayLike | torch.Tensor, expected: ArrayLike | torch.Tensor, name: str) -> None:
    """Assert that two arrays agree within a named tolerance; NaN agrees with NaN only."""
    tensors = [torch.as_tensor(np.asarray(x)) if not isinstance(x, torch.Tensor) else x for x in (actual, expected)]
    arrays = [x.detach().cpu().double().numpy() for x in tensors]
    limit = TOLERANCES[name]
    np.testing.assert_allclose(*arrays, rtol=0, atol=limit.absolute, err_msg=f"{name}: {limit.why}")
