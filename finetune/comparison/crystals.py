"""Elastic moduli and phonons of crystals, by matcalc and phonopy."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from ase.calculators.calculator import BaseCalculator, Calculator
from pymatgen.core import Structure

from finetune.comparison.figures import Figure, Measured, Tolerance
from finetune.comparison.observable import Observable
from finetune.comparison.recorded import Recorded
from finetune.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Crystals(Observable):
    """What elastic moduli and phonons share.

    Attributes:
        file: structures and DFT values: a JSON object with `elasticity` and `phonon`, each a list of objects with
            `mp_id`, `formula`, `structure` (pymatgen's) and the values.
        phases: Materials Project ids of those that are measured; empty for all.
        fmax: largest force after relaxation, eV/Å.
    """

    kind: ClassVar[str] = ""
    packages: ClassVar[Sequence[str]] = ("matcalc", "phonopy")

    file: str
    phases: Sequence[str] = ()
    fmax: float = 0.01

    def entries(self) -> list[dict[str, Any]]:
        """The phases with their DFT values.

        Raises:
            InputError: the file is none of this kind, or lacks a phase.
        """
        try:
            entries = json.loads(Path(self.file).read_text())[self.kind]
            known = {entry["mp_id"]: entry for entry in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.file} is no file of {self.kind} ({error}); see the documentation") from error
        missing = [phase for phase in self.phases if phase not in known]
        if missing:
            raise InputError(f"{self.file} has no {self.kind} of {', '.join(missing)}; it has {', '.join(known)}")
        return [known[phase] for phase in self.phases or known]


def subject(entry: Mapping[str, Any]) -> str:
    """What a phase is called."""
    return f"{entry['formula']} ({entry['mp_id']})"


@dataclass(frozen=True, kw_only=True)
class Elasticity(Crystals):
    """Bulk and shear moduli (Voigt, Reuss and Hill's average), GPa, from stresses of strained crystals."""

    heading: ClassVar[str] = "Elastic moduli"
    about: ClassVar[str] = (
        "Voigt-Reuss-Hill averages after relaxation of the crystal, ions relaxed in each strained cell. DFT: Materials "
        "Project, PBE."
    )
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "bulk modulus": Tolerance(1.0, 0.05),
        "shear modulus": Tolerance(1.0, 0.1),
    }
    kind: ClassVar[str] = "elasticity"

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Strain each crystal."""
        from matcalc import ElasticityCalc

        strains = ElasticityCalc(
            cast(Calculator, calculator),
            fmax=self.fmax,
            relax_deformed_structures=True,
            units_GPa=True,
            relax_calc_kwargs=QUIET,
        )
        figures = []
        for entry in self.entries():
            with warnings.catch_warnings():  # R² of components that vanish by symmetry
                warnings.simplefilter("ignore")
                found = strains.calc(Structure.from_dict(entry["structure"]))
            figures += _moduli(subject(entry), found["bulk_modulus_vrh"], found["shear_modulus_vrh"])
        return Measured(figures)

    def recorded(self, calculator: Recorded, place: Path) -> Measured:
        """The values of the file."""
        entries = self.entries()
        parts = [_moduli(subject(e), e["bulk_modulus_vrh"], e["shear_modulus_vrh"]) for e in entries]
        return Measured([figure for part in parts for figure in part])


QUIET: dict[str, Any] = {"max_steps": 500}


def _moduli(name: str, bulk: float, shear: float) -> list[Figure]:
    return [
        Figure(name, "bulk modulus", float(bulk), "GPa"),
        Figure(name, "shear modulus", float(shear), "GPa"),
    ]


@dataclass(frozen=True, kw_only=True)
class Phonons(Crystals):
    """Heat capacity at constant volume and 300 K, imaginary modes and the highest frequency, by phonopy.

    Attributes:
        min_length: shortest edge of the supercell, Å.
    """

    heading: ClassVar[str] = "Phonons"
    about: ClassVar[str] = (
        "Harmonic, by finite displacements in a supercell of the relaxed crystal. Imaginary modes in a stable crystal "
        "are the potential's fault. DFT: PBE phonons as collected by matcalc."
    )
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "heat capacity at 300 K": Tolerance(relative=0.02),
        "imaginary modes": Tolerance(1.0, target=0.0),
    }
    kind: ClassVar[str] = "phonon"

    min_length: float = 10.0

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Displace each crystal."""
        from matcalc import PhononCalc

        modes = PhononCalc(cast(Calculator, calculator), fmax=self.fmax, min_length=self.min_length, write_phonon=False)
        figures = []
        for entry in self.entries():
            found = modes.calc(Structure.from_dict(entry["structure"]))
            thermal, name = found["thermal_properties"], subject(entry)
            capacity = float(np.interp(300.0, thermal["temperatures"], thermal["heat_capacity"]))
            frequencies = found["phonon"].mesh.frequencies
            figures += [
                Figure(name, "heat capacity at 300 K", capacity, "J/(mol K)"),
                Figure(name, "imaginary modes", 100 * float((frequencies < -0.1).mean()), "%"),
                Figure(name, "highest frequency", float(frequencies.max()), "THz"),
            ]
        return Measured(figures)

    def recorded(self, calculator: Recorded, place: Path) -> Measured:
        """The values of the file."""
        figures = [
            Figure(subject(e), "heat capacity at 300 K", float(e["heat_capacity"]), "J/(mol K)") for e in self.entries()
        ]
        return Measured(figures)
