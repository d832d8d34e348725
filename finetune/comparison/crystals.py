"""Elastic moduli and phonons of crystals, by matcalc and phonopy."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from ase.calculators.calculator import BaseCalculator, Calculator
from numpy.typing import NDArray
from pymatgen.core import Structure
from scipy import constants
from scipy.optimize import brentq

from finetune.comparison.figures import Curve, Figure, Measured, Tolerance
from finetune.comparison.observable import Observable
from finetune.comparison.recorded import Recorded
from finetune.errors import InputError

Floats = NDArray[np.float64]

IMAGINARY_THz = 0.1  # an imaginary frequency beyond it is no noise of the acoustic modes at Gamma
QUANTILES = 201  # points of an integrated density of states
KELVIN = 1e12 * constants.h / constants.k  # of a frequency of 1 THz
CAPACITY_ERROR = 0.005  # of a heat capacity between two phonon calculations with the same forces: mesh and supercell
SCALE_ERROR = 0.03  # uncertainty of a frequency scale beyond which a heat capacity decides nothing


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

    def numbers(self) -> set[int]:
        """Return the atomic numbers of the phases."""
        return {int(z) for entry in self.entries() for z in structure(entry).atomic_numbers}

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


def structure(entry: Mapping[str, Any]) -> Structure:
    """The crystal of a phase. Further properties are left out: pymatgen would import the classes that they name."""
    sites = [{"species": site["species"], "abc": site["abc"]} for site in entry["structure"]["sites"]]
    return Structure.from_dict({"lattice": entry["structure"]["lattice"], "sites": sites})


def subject(entry: Mapping[str, Any]) -> str:
    """What a phase is called."""
    return f"{entry['formula']} ({entry['mp_id']})"


@dataclass(frozen=True, kw_only=True)
class Elasticity(Crystals):
    """Bulk and shear moduli (Voigt, Reuss and Hill's average), GPa, from stresses of strained crystals.

    The calculation is deterministic and has no statistical error, so the figures have no interval. Normal strains reach
    1 %, shear strains 6 %.
    """

    heading: ClassVar[str] = "Elastic moduli"
    about: ClassVar[str] = (
        "Voigt-Reuss-Hill averages after relaxation of the crystal, ions relaxed in each strained cell; deterministic, "
        "so without intervals. DFT: Materials Project, PBE."
    )
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "bulk modulus": Tolerance(0.5, 0.05),
        "shear modulus": Tolerance(0.5, 0.1),
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
                found = strains.calc(structure(entry))
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
    """Frequencies, density of states, imaginary modes and heat capacity at 300 K, by phonopy.

    A reference column that is itself a calculator has all of them, and mean frequency, highest frequency and density
    of states are compared. The DFT file holds the heat capacity at 300 K only. It cannot show single frequencies, but
    it fixes their scale: all frequencies of the calculator are multiplied by the factor s that gives the heat capacity
    of DFT, and 1/s, the frequencies as a share of those of DFT, is compared with 1. Its interval is that of a heat
    capacity known to 0.5 %. Where this leaves the scale open by more than 3 %, as in crystals that are classical at
    300 K, and 1 is within the interval, a note replaces the figure.

    The distance of two densities of states is the mean distance of their frequencies in ascending order (Wasserstein),
    as a percentage of the mean frequency of the reference: a softening of all frequencies by 8 % gives 8 %.

    Attributes:
        min_length: shortest edge of the supercell, Å.
    """

    heading: ClassVar[str] = "Phonons"
    about: ClassVar[str] = (
        "Harmonic, by finite displacements in a supercell of the relaxed crystal, without splitting of longitudinal "
        "and transverse optical modes. Imaginary modes in a stable crystal are the potential's fault. DFT: heat "
        "capacities at 300 K from PBE phonons, as collected by matcalc; they fix the scale of the frequencies, but not "
        "single ones."
    )
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "mean frequency": Tolerance(relative=0.03),
        "highest frequency": Tolerance(relative=0.03),
        "distance of density of states": Tolerance(3.0, target=0.0),
        "frequencies by heat capacity": Tolerance(0.03, target=1.0),
        "imaginary modes": Tolerance(1.0, target=0.0),
    }
    revision: ClassVar[int] = 2
    kind: ClassVar[str] = "phonon"

    min_length: float = 10.0

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Displace each crystal."""
        from matcalc import PhononCalc

        modes = PhononCalc(cast(Calculator, calculator), fmax=self.fmax, min_length=self.min_length, write_phonon=False)
        figures, curves, notes = [], [], []
        for entry in self.entries():
            with (
                warnings.catch_warnings()
            ):  # acoustic modes at Gamma a hair above zero count as classical, as they should
                warnings.filterwarnings("ignore", message=".*acoustic mode.* at Gamma")
                found = modes.calc(structure(entry))
            thermal, name, mesh = found["thermal_properties"], subject(entry), found["phonon"].mesh
            capacity = float(np.interp(300.0, thermal["temperatures"], thermal["heat_capacity"]))
            spectrum = Spectrum.from_mesh(mesh.frequencies, mesh.weights)
            figures += [
                Figure(name, "heat capacity at 300 K", capacity, "J/(mol K)"),
                Figure(name, "imaginary modes", 100 * spectrum.imaginary(), "%"),
                Figure(name, "mean frequency", spectrum.mean(), "THz"),
                Figure(name, "highest frequency", spectrum.highest(), "THz"),
            ]
            shares = np.linspace(0, 1, QUANTILES)
            labels = ("frequency, THz", "share of modes below")
            curves.append(Curve(name, spectrum.quantiles(shares).tolist(), shares.tolist(), *labels))
            blind = _scale(curves[-1], capacity, capacity).error
            if blind > SCALE_ERROR:
                notes.append(
                    f"{name}: a heat capacity at 300 K fixes the frequencies within ± {100 * blind:.0f} % only, so a "
                    "reference without frequencies cannot show a softening"
                )
        return Measured(figures, curves, notes)

    def recorded(self, calculator: Recorded, place: Path) -> Measured:
        """The values of the file."""
        figures = [
            Figure(subject(e), "heat capacity at 300 K", float(e["heat_capacity"]), "J/(mol K)") for e in self.entries()
        ]
        return Measured(figures)

    def against(self, measured: Measured, reference: Measured) -> list[Figure]:
        """Distance of each density of states from that of the reference, or the scale by its heat capacity."""
        known = {curve.panel: curve for curve in reference.curves}
        own, wanted = measured.by_name(), reference.by_name()
        found = []
        for curve in measured.curves:
            other, key = known.get(curve.panel), f"{curve.panel}: heat capacity at 300 K"
            mean = 0.0 if other is None else float(np.trapezoid(np.clip(other.x, 0, None), other.y))
            if other is not None and len(other.x) == len(curve.x) and mean > 0:
                apart = np.abs(np.array(curve.x) - np.array(other.x))
                distance = 100 * float(np.trapezoid(apart, curve.y)) / mean
                found.append(Figure(curve.panel, "distance of density of states", distance, "%"))
            elif other is None and key in own and key in wanted:
                scale = _scale(curve, own[key].value, wanted[key].value)
                if scale.error <= SCALE_ERROR or abs(scale.value - 1) > scale.error:
                    found.append(scale)
        return found


@dataclass(frozen=True)
class Spectrum:
    """Frequencies of a crystal with the weight of each, from a mesh of irreducible q-points.

    Attributes:
        frequencies_THz: ascending; imaginary ones negative, as in phonopy.
        weights: the share of all modes that each stands for; they sum to 1.
    """

    frequencies_THz: Floats
    weights: Floats

    @classmethod
    def from_mesh(cls, frequencies: Floats, multiplicities: NDArray[Any]) -> Spectrum:
        """The modes of a mesh.

        Args:
            frequencies: THz, shape (irreducible q-points, branches).
            multiplicities: number of q-points of the full mesh that each irreducible one stands for.
        """
        values = np.asarray(frequencies, dtype=float)
        shares = np.repeat(np.asarray(multiplicities, dtype=float), values.shape[1])
        order = np.argsort(values.ravel(), kind="stable")
        return cls(values.ravel()[order], (shares / shares.sum())[order])

    def imaginary(self) -> float:
        """Share of the modes that are imaginary."""
        return float(self.weights[self.frequencies_THz < -IMAGINARY_THz].sum())

    def mean(self) -> float:
        """Mean frequency, THz; imaginary modes count as 0."""
        return float(self.weights @ np.clip(self.frequencies_THz, 0.0, None))

    def highest(self) -> float:
        """Highest frequency, THz."""
        return float(self.frequencies_THz[-1])

    def quantiles(self, shares: Floats) -> Floats:
        """Frequencies, THz, below which shares of the modes lie: the inverse of the integrated density of states."""
        places = np.searchsorted(np.cumsum(self.weights), shares)
        found: Floats = self.frequencies_THz[np.minimum(places, len(self.weights) - 1)]
        return found


def heat_capacity(frequencies_THz: Floats, temperature_K: float = 300.0) -> float:
    """Mean heat capacity of harmonic modes over that of classical ones; imaginary modes count as classical."""
    x = np.clip(np.asarray(frequencies_THz), 1e-6, None) * KELVIN / temperature_K
    return float(np.mean((x / 2 / np.sinh(np.clip(x / 2, None, 300.0))) ** 2))


def frequency_scale(frequencies_THz: Floats, share: float, temperature_K: float = 300.0) -> float:
    """Factor on all frequencies that gives a heat capacity, between 1/4 and 4; the nearer end where none of them does.

    Args:
        frequencies_THz: of equally many modes each.
        share: wanted heat capacity over the classical one.
        temperature_K: temperature, K.
    """

    def beyond(logarithm: float) -> float:
        return heat_capacity(math.exp(logarithm) * frequencies_THz, temperature_K) - share

    limit = math.log(4.0)
    if beyond(-limit) <= 0:
        return math.exp(-limit)
    if beyond(limit) >= 0:
        return math.exp(limit)
    return math.exp(float(brentq(beyond, -limit, limit, xtol=1e-9)))


def _scale(curve: Curve, own: float, wanted: float) -> Figure:
    """Frequencies as a share of those of the reference, by its heat capacity."""
    frequencies = np.array(curve.x)
    share = heat_capacity(frequencies) * wanted / own  # the number of modes is that of the calculator's heat capacity
    factors = (1 - CAPACITY_ERROR, 1.0, 1 + CAPACITY_ERROR)
    low, value, high = (1 / frequency_scale(frequencies, share * factor) for factor in factors)
    return Figure(curve.panel, "frequencies by heat capacity", value, "", low, high)
