"""Units and signs of labels, by cosine and ratio to the predictions of a foundation model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from ase.units import Bohr, GPa, Hartree, Rydberg, kcal, kJ, mol

AGREE = 0.6  # median |c| from which sign and unit are told; correct labels have 0.85 and more
FACTOR = 8.0  # q beyond which a unit is wrong: softening explains 2.5, the smallest mistake of units is 13.6
USUAL = 1.3  # q of correct labels, geometric mean
# Scatter of the logarithm of q over frames, above which a ratio is no unit: 0.6 and less are usual, 0.9 to 1.9 in
# relaxed crystals, whose labels are what the relaxation left over.
SCATTER = 0.8
ALIKE = 3.0  # factor within which a ratio may be that of a unit
LEFT = 30.0  # the same, for labels smaller than those of the model, where ratios scatter

Units = Mapping[str, float]  # size of a unit in ASE's
ENERGIES: Units = MappingProxyType(
    {"kcal/mol": kcal / mol, "kJ/mol": kJ / mol, "Hartree": Hartree, "Rydberg": Rydberg, "meV": 1e-3}
)
FORCES: Units = MappingProxyType(
    {
        "kcal/mol/Å": kcal / mol,
        "kJ/mol/Å": kJ / mol,
        "Hartree/Bohr": Hartree / Bohr,
        "Rydberg/Bohr": Rydberg / Bohr,
        "meV/Å": 1e-3,
    }
)
STRESSES: Units = MappingProxyType(
    {
        "GPa": GPa,
        "kbar": 0.1 * GPa,
        "bar": 1e-4 * GPa,
        "Hartree/Bohr³": Hartree / Bohr**3,
        "Rydberg/Bohr³": Rydberg / Bohr**3,
    }
)


def scatter_of(q: np.ndarray) -> float:
    """Standard deviation of the logarithm of ratios, by the median deviation."""
    logarithm = np.log(np.maximum(q, 1e-300))
    return 1.4826 * float(np.median(np.abs(logarithm - np.median(logarithm))))


def near_units(q: float, units: Units, smallest: float = 1 / ALIKE) -> list[str]:
    """Units that labels of `q` times the size of the prediction may have, the likeliest first."""
    sizes = {name: q * size / USUAL for name, size in units.items()}
    likely = sorted(sizes, key=lambda name: abs(math.log(sizes[name])))
    return [name for name in likely if smallest < sizes[name] < ALIKE]


def sign_and_unit(c: float, q: float, units: Units, wanted: str, meaning: str, scatter: float = 0.0) -> str:
    """Words for the opposite sign, for another unit, or both; empty where the sign agrees and the size may be right.

    Args:
        c: median cosine of label and prediction.
        q: median ratio of their norms.
        units: sizes of the units that it may be.
        wanted: the right unit.
        meaning: the right sign.
        scatter: of the logarithm of the ratio over frames.
    """
    flipped, scaled = c < -AGREE, abs(c) > AGREE and not 1 / FACTOR < q < FACTOR
    if not (flipped or scaled):
        return ""
    words = f"cosine {c:.2f} with the foundation model and {q:.3g} times its size; give {wanted}"
    if flipped:
        words += f", with the opposite sign ({meaning})"
    if scaled:
        unclear = scatter > SCATTER
        near = [
            f"{name} (then multiply by {units[name]:.6g})"
            for name in near_units(q, units, 1 / LEFT if unclear else 1 / ALIKE)
        ]
        words += f", as they look like {' or '.join(near)}" if near else ", as their unit is another one"
        if unclear and near:
            words += (
                f"; the ratio scatters by a factor of {math.exp(scatter):.1f} between frames, as near equilibrium, "
            )
            words += "so look up which unit the code writes"
    return words
