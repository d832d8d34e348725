"""Any model as a normal ASE calculator."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from finetune import models
from finetune.committee import Committee
from finetune.errors import InputError, unknown
from finetune.neighbours import SkinList
from finetune.potential import Potential

DTYPES = ("float32", "float64")


class PotentialCalculator(Calculator):
    """ASE calculator of a potential: energy and free energy (eV), forces (eV/Å), stress (eV/Å³, Voigt), energies (eV).

    Stress is given where the cell has a volume; energies per atom and magmoms where the potential has them; energy_std
    (eV) and forces_std (eV/Å, shape atoms 3), the standard deviation among its members, for a committee; gamma,
    forces_error (eV/Å) and energies_std (eV) of each atom for what gives them (`finetune.uncertainty`).

    Args:
        potential: any potential of the contract.
        device: torch device, the GPU where there is one.
        dtype: `float32` or `float64`; None keeps that of the weights.
        skin: pairs are searched for this far (Å) beyond the cutoff and kept until an atom has moved half of it;
            it changes no result. 0 searches at every call.
    """

    implemented_properties = [  # noqa: RUF012
        *("energy", "free_energy", "forces", "stress", "energies", "magmoms"),
        *("energy_std", "energies_std", "forces_std", "gamma", "forces_error"),
    ]

    def __init__(
        self,
        potential: Potential,
        device: str | None = None,
        dtype: str | None = None,
        skin: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        place = known_device(device)
        if dtype is not None and dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        kind = potential.dtype if dtype is None else getattr(torch, dtype)
        if (potential.device, potential.dtype) != (place, kind):
            with warnings.catch_warnings():  # e3nn copies its compiled parts by what torch calls deprecated
                warnings.simplefilter("ignore", DeprecationWarning)
                potential = copy.deepcopy(potential).to(place).to(kind)  # the caller's own stays as it is
        if skin < 0:
            raise InputError(f"the skin is {skin} Å; give 0 or more")
        self.potential = potential.eval()
        self.neighbours = SkinList(potential.cutoff, skin, place)
        self.checked: set[int] = set()  # elements that have been looked up in the training set

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill `results` for a structure.

        Raises:
            InputError: an element that the potential does not know, atoms on top of each other, a cell without volume.
        """
        super().calculate(atoms, properties, system_changes)
        structure: Atoms = self.atoms  # type: ignore[assignment]
        if len(structure) == 0:
            raise InputError("there are no atoms to compute; give a structure with at least one")
        self.potential.check_elements(structure)
        present = set(structure.numbers.tolist())
        if not present <= self.checked:
            self.checked |= present
            self.potential.warn_unseen(present)
        predicted = self.potential(self.potential.completed(self.neighbours.graph(structure)))
        energy = float(predicted.energy[0])
        results: dict[str, Any] = {"energy": energy, "free_energy": energy}
        results["forces"] = predicted.forces.cpu().numpy().astype(np.float64)
        stress = predicted.stress[0].cpu().numpy().astype(np.float64)
        if np.isfinite(stress).all():
            results["stress"] = full_3x3_to_voigt_6_stress(stress)
        if predicted.energies is not None:
            results["energies"] = predicted.energies.cpu().numpy()
        if predicted.magmoms is not None:
            results["magmoms"] = predicted.magmoms.cpu().numpy().astype(np.float64)
        if predicted.energy_std is not None:
            results["energy_std"] = float(predicted.energy_std[0])
        for name in ("energies_std", "forces_std", "gamma", "forces_error"):
            value = getattr(predicted, name)
            if value is not None:
                results[name] = value.cpu().numpy().astype(np.float64)
        self.results = results


def known_device(name: str) -> torch.device:
    """The torch device of a name.

    Raises:
        InputError: there is no such device here.
    """
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} is not there ({str(error).splitlines()[0]}); take cpu") from error


def calculator(
    model: str | os.PathLike[str] | Potential | Sequence[str | os.PathLike[str] | Potential],
    device: str | None = None,
    dtype: str | None = None,
    trusted: bool = False,
    skin: float = 1.0,
) -> PotentialCalculator:
    """The ASE calculator of a model name, a run directory, a checkpoint or a potential.

    Args:
        model: what `finetune.load` takes, or a potential; a list of them makes a committee.
        device: torch device, e.g. `cpu` or `cuda:1`; None takes the GPU where there is one.
        dtype: `float32` (fast, for dynamics) or `float64` (for relaxations, phonons); None keeps that of the weights.
        trusted: see `finetune.load`.
        skin: see `PotentialCalculator`.
    """
    names = [model] if isinstance(model, str | os.PathLike | Potential) else list(model)
    loaded = [one if isinstance(one, Potential) else models.load(one, trusted=trusted) for one in names]
    return PotentialCalculator(loaded[0] if names == [model] else Committee(loaded), device, dtype, skin)
