"""Dynamics against closed forms: conservation, the canonical distribution, a known volume, ramps and fixed atoms."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms
from scipy.integrate import quad

import finetune
from finetune.errors import InputError
from finetune.md import NPT, NVE, FixedLayer, Langevin, NoseHoover, Output, Stage, simulate

from .einstein import BULK, PER_ATOM, crystal
from .structures import of_family

LANGEVIN = Langevin(temperature_K=500.0, friction_per_fs=0.02, timestep_fs=4.0)
CHAIN = NoseHoover(temperature_K=500.0, relaxation_fs=60.0, timestep_fs=4.0)


def damped(temperature_K) -> Langevin:
    return Langevin(temperature_K=temperature_K, friction_per_fs=0.05, timestep_fs=4.0)


def columns(directory: Path) -> dict[str, np.ndarray]:
    with (directory / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("model", ["chgnet", "mace:mini"])
def test_energy_and_momentum_are_conserved_without_a_thermostat(model, tmp_path):
    atoms = of_family("crystal")
    atoms.calc = finetune.calculator(model, device="cpu", dtype="float64")
    simulate(atoms, [Stage(NVE(), ps=0.1)], tmp_path, output=Output(log_every=1, start_K=600.0), progress=False)
    log = columns(tmp_path)
    total = (log["potential_eV"] + log["kinetic_eV"]) / len(atoms)
    slope = np.polyfit(log["time_ps"], 1000 * total, 1)[0]
    assert log["kinetic_eV"].max() > 0.02 * len(atoms)
    assert abs(slope) < 1.0  # meV/atom/ps
    assert np.ptp(total) < 1e-3
    np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(log["drift_eV"], (total - total[0]) * len(atoms), atol=1e-5)


@pytest.mark.parametrize("ensemble", [LANGEVIN, CHAIN], ids=["Langevin", "chain"])
def test_kinetic_energy_is_distributed_as_in_the_canonical_ensemble(ensemble, tmp_path):
    atoms = crystal()
    rng = np.random.default_rng(1)  # springs of many frequencies, so that the chain of thermostats mixes
    atoms.calc.stiffness = rng.uniform(0.5, 4.0, size=(len(atoms), 1))
    # A harmonic crystal keeps the energy that it begins with for long: it begins with that of the ensemble.
    atoms.positions += rng.normal(size=(len(atoms), 3)) * np.sqrt(units.kB * 500 / atoms.calc.stiffness)
    simulate(atoms, [Stage(ensemble, ps=20.0)], tmp_path, guards=[], output=Output(every=100000), progress=False)
    kinetic = columns(tmp_path)["kinetic_eV"][50:]
    degrees = ensemble.degrees(atoms)
    kt = units.kB * 500
    assert kinetic.mean() == pytest.approx(degrees * kt / 2, rel=0.02)
    assert kinetic.var() == pytest.approx(degrees * kt**2 / 2, rel=0.25)


@pytest.mark.parametrize(("cell", "pressure_GPa"), [("isotropic", 5.0), ("axes", 0.0), ("full", 5.0)])
def test_a_harmonic_crystal_reaches_its_known_volume(cell, pressure_GPa, tmp_path):
    atoms = crystal()
    atoms.set_cell(atoms.cell * 1.03, scale_atoms=True)
    times = {"timestep_fs": 4.0, "relaxation_fs": 60.0, "cell_relaxation_fs": 200.0}
    ensemble = NPT(temperature_K=300.0, pressure_GPa=pressure_GPa, cell=cell, **times)
    simulate(atoms, [Stage(ensemble, ps=12.0)], tmp_path, guards=[], output=Output(every=100000), progress=False)
    volume = columns(tmp_path)["volume_A3"][60:].mean()
    assert volume == pytest.approx(known_volume(len(atoms), 300.0, pressure_GPa * units.GPa), rel=0.01)


def known_volume(n: int, temperature_K: float, pressure: float) -> float:
    """Mean of V where P(V) ~ exp(-(U(V) + p V) / kT): the springs scale with the cell and do not press."""
    v0, kt = PER_ATOM * n, units.kB * temperature_K
    least = v0 * (1 - pressure / BULK)

    def weight(v: float) -> float:
        return float(np.exp(-BULK * (v - least) ** 2 / (2 * v0 * kt)))

    width = 8 * np.sqrt(v0 * kt / BULK)
    ends = (least - width, least + width)
    return quad(lambda v: v * weight(v), *ends)[0] / quad(weight, *ends)[0]


def test_a_ramp_ends_at_its_temperature(tmp_path):
    atoms = crystal(4)
    stages = [Stage(damped((200.0, 800.0)), ps=6.0), Stage(damped((800.0, 200.0)), ps=6.0)]
    simulate(atoms, stages, tmp_path, guards=[], progress=False)
    log = columns(tmp_path)
    wanted = np.interp(log["time_ps"], [0, 6, 12], [200, 800, 200])
    np.testing.assert_allclose(log["target_K"], wanted, atol=2)
    late = log["time_ps"] > 0.5
    assert np.abs(log["temperature_K"] - wanted)[late].mean() < 0.12 * wanted.mean()
    assert log["temperature_K"][(log["time_ps"] > 5.5) & (log["time_ps"] < 6.5)].mean() == pytest.approx(780, rel=0.1)


def test_fixed_layers_stay_and_the_others_have_the_temperature(tmp_path):
    atoms = crystal(4)
    layer = FixedLayer(0.0, 0.3)
    atoms.set_constraint(layer.constraint(atoms))
    fixed = atoms.constraints[0].index
    before = atoms.get_positions()
    simulate(atoms, [Stage(damped(400.0), ps=4.0)], tmp_path, guards=[], progress=False)
    moved = np.linalg.norm(atoms.get_positions() - before, axis=1)
    assert len(fixed) == 32
    np.testing.assert_array_equal(moved[fixed], 0)
    assert (np.delete(moved, fixed) > 1e-3).all()
    temperature = columns(tmp_path)["temperature_K"][100:].mean()
    assert temperature == pytest.approx(400, rel=0.08)


def test_momenta_that_a_structure_has_are_kept(tmp_path):
    atoms = crystal(2)
    atoms.set_momenta(np.full((len(atoms), 3), 0.1))
    simulate(atoms, [Stage(NVE(timestep_fs=0.1), ps=0.0001)], tmp_path, guards=[], progress=False)
    np.testing.assert_allclose(atoms.get_momenta(), 0.1, rtol=1e-2)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda atoms: atoms.set_constraint(FixAtoms([0])), "does not go with fixed atoms; use Langevin"),
        (lambda atoms: atoms.set_pbc([True, True, False]), "periodic in all three directions"),
    ],
)
def test_what_a_barostat_cannot_do_is_told(change, match, tmp_path):
    atoms = crystal(2)
    change(atoms)
    with pytest.raises(InputError, match=match):
        simulate(atoms, [Stage(NPT(), ps=1.0)], tmp_path, progress=False)


def test_a_layer_of_no_atom_or_of_all_is_told():
    with pytest.raises(InputError, match=r"0 of 8 atoms are between 0\.1 and 0\.2"):
        FixedLayer(0.1, 0.2).constraint(crystal(2))
    with pytest.raises(InputError, match="8 of 8"):
        FixedLayer(0.0, 1.0, axis=1).constraint(crystal(2))
    with pytest.raises(InputError, match="not 3"):
        FixedLayer(0.0, 1.0, axis=3).constraint(crystal(2))


class Springs(Calculator):
    """Every atom bound to every other by the same spring: nothing holds the centre of mass."""

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, atoms, stiffness=0.05) -> None:
        super().__init__()
        self.stiffness, self.places = stiffness, atoms.get_scaled_positions()

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        away = self.atoms.get_positions() - self.places @ self.atoms.cell.array
        away -= away.mean(axis=0)
        n = len(away)
        stress = n * self.stiffness * away.T @ away / self.atoms.get_volume()
        energy = float(n * self.stiffness * (away**2).sum() / 2)
        self.results = {"energy": energy, "free_energy": energy, "forces": -n * self.stiffness * away}
        self.results["stress"] = stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]


def test_the_centre_of_mass_rests_after_a_stage_whose_noise_moved_it(tmp_path):
    atoms = crystal(2)  # few, so that three degrees of freedom more or less are seen
    atoms.calc = Springs(atoms)
    chain = NoseHoover(temperature_K=500.0, relaxation_fs=60.0, timestep_fs=4.0)
    stages = [Stage(LANGEVIN, ps=1.0), Stage(chain, ps=20.0)]
    simulate(atoms, stages, tmp_path, guards=[], output=Output(every=100000), progress=False)
    momenta = atoms.get_momenta()
    np.testing.assert_allclose(momenta.sum(axis=0), 0, atol=1e-9)
    log = columns(tmp_path)
    chained = (log["stage"] == 1) & (log["time_ps"] > 2.0)
    internal = 2 * log["kinetic_eV"][chained].mean() / ((3 * len(atoms) - 3) * units.kB)
    assert internal == pytest.approx(500, rel=0.03)
    assert log["temperature_K"][chained].mean() == pytest.approx(internal, rel=1e-6)


def test_nve_without_momenta_asks_for_a_temperature(tmp_path):
    with pytest.raises(InputError, match="set start_K"):
        simulate(crystal(2), [Stage(NVE(), ps=1.0)], tmp_path, progress=False)


def test_numbers_of_any_kind_make_the_same_ensemble():
    assert Langevin(temperature_K=np.float64(300)) == Langevin(temperature_K=300.0)
    assert repr(NPT(temperature_K=np.float64(300.0))) == repr(NPT(temperature_K=300.0))
