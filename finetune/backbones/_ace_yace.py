"""An atomic cluster expansion as a `.yace` file of pacemaker, which `pair_style pace` of LAMMPS and others read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers

from finetune.backbones._ace_basis import Function, coupling

if TYPE_CHECKING:
    from finetune.backbones.ace import ACE

SPLINE_BINS = 0.001  # Å, of the tables that LAMMPS makes of the radial functions
NO_LIMIT = 1e9  # eV of core repulsion at which LAMMPS would switch the expansion off
SMALLEST = 1e-12  # coupling coefficients below are zero


def yace(potential: ACE, references: Mapping[int, float]) -> str:
    """The text of the file; energies of atoms are the reference energies (eV)."""
    symbols = potential.settings["elements"]
    elements = range(len(symbols))
    lines = [
        f"elements: {_plain(symbols)}",
        f"E0: {_plain([references.get(atomic_numbers[symbol], 0.0) for symbol in symbols])}",
        f"deltaSplineBins: {SPLINE_BINS}",
        "embeddings:",
        *(f"  {i}: {_plain(_embedding(potential))}" for i in elements),
        "bonds:",
        *(f"  [{i}, {j}]: {_plain(_bond(potential, i, j))}" for i, j in itertools.product(elements, repeat=2)),
        "functions:",
        *itertools.chain.from_iterable(_functions(potential, i) for i in elements),
    ]
    return "\n".join(lines) + "\n"


def _embedding(potential: ACE) -> dict[str, Any]:
    return {
        "ndensity": len(potential.exponents),
        "FS_parameters": [x for exponent in potential.exponents for x in (1.0, float(exponent))],
        "npoti": "FinnisSinclairShiftedScaled",
        "rho_core_cutoff": NO_LIMIT,
        "drho_core_cutoff": 1.0,
    }


def _bond(potential: ACE, i: int, j: int) -> dict[str, Any]:
    pair = i * len(potential.elements) + j
    core = dict.fromkeys(("inner", "width", "prefactor", "decay"), 0.0)
    if potential.core is not None:
        core = {name: float(potential.get_buffer(f"core_{name}")[pair]) for name in core}
    return {
        "nradmax": potential.products.n_mixed,
        "lmax": potential.lmax,
        "nradbasemax": potential.n_radial,
        "radbasename": potential.radial.yace,
        "radparameters": [float(potential.radial.decay)],
        "radcoefficients": potential.mixing[i, j].detach().double().tolist(),
        "prehc": core["prefactor"],
        "lambdahc": core["decay"],
        "rcut": potential.cutoff,
        "dcut": 0.0,
        "rcut_in": core["inner"],
        "dcut_in": core["width"],
        "inner_cutoff_type": "distance",
    }


def _functions(potential: ACE, element: int) -> Iterator[str]:
    """The functions of one element, a line each."""
    weights = (potential.coefficients[element] / potential.scale[element]).detach().double().cpu().numpy()
    yield f"  {element}:"
    for function, coefficients in zip(potential.products.functions, weights.T, strict=True):
        combinations = list(_complex(function))
        yield "    - " + _plain(
            {
                "mu0": element,
                "rank": function.order,
                "ndensity": len(coefficients),
                "num_ms_combs": len(combinations),
                "mus": [mu for _, mu, _ in function.channels],
                "ns": [n + 1 for _, _, n in function.channels],
                "ls": [l for l, _, _ in function.channels],
                "ms_combs": [m for ms, _ in combinations for m in ms],
                "ctildes": [float(value * c) for _, value in combinations for c in coefficients],
            }
        )


def _complex(function: Function) -> Iterator[tuple[tuple[int, ...], float]]:
    """Coefficients of a function in products of complex A, by their m.

    m and -m give conjugate products, of which the real part counts: one of the two is there, twice.
    """
    ls = tuple(l for l, _, _ in function.channels)
    tensor = coupling(ls, function.L).astype(complex)
    for axis, l in enumerate(ls):
        tensor = np.moveaxis(np.tensordot(tensor, to_complex(l).conj(), axes=(axis, 1)), -1, axis)
    for index in np.ndindex(tensor.shape):
        ms = tuple(i - l for i, l in zip(index, ls, strict=True))
        first = next((m for m in ms if m), 0)
        if first >= 0 and abs(tensor[index]) > SMALLEST:
            yield ms, float(tensor[index].real) * (2 if first else 1)


def to_complex(l: int) -> np.ndarray:
    """Complex spherical harmonics (Condon-Shortley phase; rows m = -l..l) in real ones (columns)."""
    matrix = np.zeros((2 * l + 1, 2 * l + 1), complex)
    matrix[l, l] = 1
    for m in range(1, l + 1):
        sign = (-1) ** m
        matrix[l + m, l + m], matrix[l + m, l - m] = sign / np.sqrt(2), 1j * sign / np.sqrt(2)
        matrix[l - m, l + m], matrix[l - m, l - m] = 1 / np.sqrt(2), -1j / np.sqrt(2)
    return matrix


def _plain(value: Any) -> str:
    """YAML in one line; numbers have a point and all their digits, so that every reader takes them as such."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    if isinstance(value, float):
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return str(value)
