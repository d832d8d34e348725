"""Radial functions and core repulsion of an atomic cluster expansion, each as LAMMPS' `pair_style pace` has it.

The radial functions are those of Bochkarev et al. (10.1103/PhysRevMaterials.6.013804) and Lysogorskiy et al.
(10.1038/s41524-021-00559-9), in the form of their C++ code, so that a potential can be written as `.yace`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from ase.data import covalent_radii
from ase.units import Bohr, Hartree
from torch import Tensor

from finetune.errors import InputError

SMALLEST_CORE = 0.4  # of the inner distance, down to which the core repulsion is that of ZBL
_ZBL = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))


@dataclass(frozen=True)
class Chebyshev:
    """Chebyshev polynomials of an exponential of the distance, under a cosine (`ChebExpCos`).

    Attributes:
        decay: lambda of exp(-lambda r / rc); the larger, the finer at short distance.
    """

    decay: float = 5.25
    yace = "ChebExpCos"

    def __call__(self, r: Tensor, cutoff: float, count: int) -> Tensor:
        """g_k(r) of distances in Å, shape (k, ...), zero at the cutoff."""
        last = math.exp(-self.decay)
        x = 1 - 2 * (torch.exp(r * (-self.decay / cutoff)) - last) / (1 - last)
        polynomials = [torch.ones_like(x), x]
        while len(polynomials) < count:
            polynomials.append(2 * x * polynomials[-1] - polynomials[-2])
        rows = [polynomials[0], *((1 - p) / 2 for p in polynomials[1:])]
        return torch.stack(rows[:count]) * ((1 + torch.cos(r * (math.pi / cutoff))) / 2)


@dataclass(frozen=True)
class Bessel:
    """Orthogonal sums of spherical Bessel functions, with no slope and curvature at the cutoff (`SBessel`).

    Kocer et al., 10.1063/1.5111045.
    """

    decay = 1.0
    yace = "SBessel"

    def __call__(self, r: Tensor, cutoff: float, count: int) -> Tensor:
        """g_k(r) of distances in Å, shape (k, ...), zero at the cutoff."""
        x = r * (math.pi / cutoff)
        cosine = torch.cos(x)
        ratios = [torch.ones_like(x), 2 * cosine]  # sin(k x) / sin(x), Chebyshev polynomials of the second kind
        while len(ratios) < count + 1:
            ratios.append(ratios[1] * ratios[-1] - ratios[-2])
        matrix = torch.as_tensor(_bessel_matrix(count, cutoff).T, dtype=r.dtype, device=r.device)
        sums = matrix @ torch.stack(ratios[: count + 1]).flatten(1)
        return sums.view(count, *r.shape) * (torch.sin(x) / x)


def _bessel_matrix(count: int, cutoff: float) -> np.ndarray:
    """Coefficients of sin(k x) / x, k from 1, x = pi r / rc, in the orthogonal functions; shape (count + 1, count)."""
    n = np.arange(count)
    norm = (-1.0) ** n * math.sqrt(2) * math.pi * (n + 1) * (n + 2) / np.sqrt((n + 1) ** 2 + (n + 2) ** 2)
    raw = np.zeros((count + 1, count))
    raw[n, n] = raw[n + 1, n] = norm
    matrix = raw.copy()
    d = 1.0
    for i in range(1, count):
        e = i**2 * (i + 2) ** 2 / (4 * (i + 1) ** 4 + 1)
        before, d = d, 1 - e / d
        matrix[:, i] = (raw[:, i] + math.sqrt(e / before) * matrix[:, i - 1]) / math.sqrt(d)
    return matrix / np.arange(1, count + 2)[:, None] / cutoff**1.5


RADIALS = {"chebyshev": Chebyshev, "bessel": Bessel}


def step(r: Tensor, edge: Tensor, width: Tensor) -> Tensor:
    """1 below `edge - width`, 0 above `edge`, a polynomial with two continuous derivatives in between."""
    x = (1 - 2 * (1 + (r - edge) / width)).clamp(-1, 1)
    square = x * x
    return 0.5 + x * (0.9375 - square * (0.625 - square * 0.1875))


@dataclass(frozen=True)
class Core:
    """Repulsion of atoms that come very close: the expansion fades out and screened nuclei take over.

    Within `width` below the inner distance of a pair, its atomic base fades out and half of
    p exp(-lambda r²) / r fades in for each of the two atoms, with p and lambda fitted to the potential of Ziegler,
    Biersack and Littmark. The inner distance is a fraction of the sum of covalent radii, so it needs no data.

    Attributes:
        fraction: inner distance over the sum of the covalent radii.
        width: of the fading, Å.
    """

    fraction: float = 0.75
    width: float = 0.3

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if not (0 < self.fraction < 1.2 and self.width > 0):
            raise InputError(
                f"core repulsion with fraction {self.fraction} and width {self.width} Å; give both above 0"
            )

    def check(self, inner: np.ndarray) -> None:
        """Refuse a width that leaves no room for the repulsion."""
        if self.width >= inner.min():
            raise InputError(
                f"the core fades in over {self.width} Å; give less than {inner.min():.2f} Å, where it begins"
            )

    def table(self, numbers: list[int]) -> dict[str, np.ndarray]:
        """Inner distance and width (Å), prefactor (eV Å) and lambda (1/Å²) for each pair of elements."""
        radii = covalent_radii[numbers]
        inner = self.fraction * (radii[:, None] + radii[None, :])
        self.check(inner)
        pairs = [[_screened(a, b, inner[i, j]) for j, b in enumerate(numbers)] for i, a in enumerate(numbers)]
        prefactor, decay = np.moveaxis(np.array(pairs), -1, 0)
        return {"inner": inner, "width": np.full_like(inner, self.width), "prefactor": prefactor, "decay": decay}


def zbl(a: int, b: int, r: np.ndarray) -> np.ndarray:
    """Universal repulsion of two atoms, eV (Ziegler, Biersack, Littmark 1985)."""
    x = r * (a**0.23 + b**0.23) / 0.46850
    return np.asarray(a * b * Hartree * Bohr / r * sum(c * np.exp(-d * x) for c, d in _ZBL))


def _screened(a: int, b: int, inner: float) -> tuple[float, float]:
    """Prefactor (eV Å) and lambda (1/Å²) of half the ZBL repulsion, by its logarithm below the inner distance."""
    r = np.linspace(SMALLEST_CORE * inner, inner, 50)
    slope, constant = np.polyfit(r**2, np.log(zbl(a, b, r) * r / 2), 1)
    return float(np.exp(constant)), float(-slope)


def repulsion(r: Tensor, cutoff: float, inner: Tensor, width: Tensor, prefactor: Tensor, decay: Tensor) -> Tensor:
    """Share of the core repulsion that one of the two atoms carries, eV."""
    bare = prefactor * torch.exp(-decay * r.square()) / r * (1 + torch.cos(r * (math.pi / cutoff))) / 2
    return bare * step(r, inner, width)
