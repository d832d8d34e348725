"""DFT as a calculator that looks up what has been computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from finetune.data.checking import check
from finetune.data.frames import Frame
from finetune.errors import InputError
from finetune.labelling.store import identity


class NotRecorded(InputError):
    """There is no label of this structure."""


class Recorded(Calculator):
    """ASE calculator that gives the labels of known structures: energy (eV), forces (eV/Å), stress (eV/Å³).

    Args:
        frames: labelled frames; of a structure that stands in them twice the first counts.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, frames: Sequence[Frame]) -> None:
        super().__init__()
        self.frames = list(frames)
        check(self.frames)
        self.known = {identity(frame.atoms): frame for frame in reversed(self.frames)}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Look the structure up.

        Raises:
            NotRecorded: it is not there, or has no energy.
        """
        super().calculate(atoms, properties, system_changes)
        structure: Atoms = self.atoms  # type: ignore[assignment]
        frame = self.known.get(identity(structure))
        labels = None if frame is None else frame.labels
        if labels is None or not np.isfinite(float(labels.energy[0])):
            raise NotRecorded(f"no label is recorded for this {structure.get_chemical_formula()}")
        energy, stress = float(labels.energy[0]), labels.stress[0].numpy()
        results: dict[str, Any] = {"energy": energy, "free_energy": energy, "forces": labels.forces.numpy()}
        if np.isfinite(stress).all():
            results["stress"] = full_3x3_to_voigt_6_stress(stress)
        self.results = results
