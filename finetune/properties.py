"""Energy, forces and stress of structures: the one type that DFT labels and predictions share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

PER_STRUCTURE = ("energy", "stress", "energy_std")  # one row for a structure; the others have one for an atom


@dataclass(frozen=True)
class Properties:
    """What DFT or a potential says about a batch of structures; NaN means not known.

    Attributes:
        energy: total energy of each structure, eV.
        forces: minus the gradient of the energy, eV/Å.
        stress: strain derivative of the energy over the volume, eV/Å³, positive under tension (ASE's sign).
        energies: energy of each atom, eV; None where there is no such partition.
        magmoms: magnetic moment of each atom, Bohr magnetons; None where there is none.
        energy_std: standard deviation of `energy` among the members of a committee, eV; None where there is none.
        forces_std: the same of `forces`, eV/Å.
        energies_std: the same of `energies`, eV; None where members have no such partition, or are whole potentials.
        gamma: extrapolation grade of each atom (`finetune.uncertainty.Graded`): up to 1 among what was trained on,
            infinite for an element that was not, and within a core repulsion; None where there is none.
        forces_error: calibrated error of the force on each atom, eV/Å (`finetune.uncertainty.Calibrated`): the stated
            quantile of |F predicted - F DFT|; None where there is none.
    """

    energy: Float[Tensor, " structures"]
    forces: Float[Tensor, "atoms 3"]
    stress: Float[Tensor, "structures 3 3"]
    energies: Float[Tensor, " atoms"] | None = None
    magmoms: Float[Tensor, " atoms"] | None = None
    energy_std: Float[Tensor, " structures"] | None = None
    forces_std: Float[Tensor, "atoms 3"] | None = None
    energies_std: Float[Tensor, " atoms"] | None = None
    gamma: Float[Tensor, " atoms"] | None = None
    forces_error: Float[Tensor, " atoms"] | None = None

    def to(self, to: torch.device | torch.dtype | str) -> Properties:
        """The same numbers on another device or in another dtype."""
        return Properties(**{name: value.to(to) for name, value in self.known().items()})

    def detach(self) -> Properties:
        """The same numbers without the autograd graph."""
        return Properties(**{name: value.detach() for name, value in self.known().items()})

    def known(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def concatenate(parts: Sequence[Properties]) -> Properties:
    """One batch out of several, in order; a property that any part lacks is left out."""
    names = set.intersection(*(set(part.known()) for part in parts))
    return Properties(**{name: torch.cat([getattr(part, name) for part in parts]) for name in sorted(names)})
