"""Each guard finds the fault that it is for, in a trajectory made to show it, and nothing else."""

from __future__ import annotations

import re

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from finetune.errors import InputError
from finetune.md import (
    GUARDS,
    Ballistic,
    Energy,
    Evaporated,
    Extrapolating,
    LostBonding,
    PhaseSeparation,
    Pressure,
    TooClose,
    TooHot,
    Uncertain,
    Voids,
)
from finetune.md.snapshot import Snapshot

from .structures import ROOT

BONDING = LostBonding(centre="P", ligand="S", cutoff_A=2.7)
EVERY = (*GUARDS, BONDING, Uncertain(by="forces_error"))


def glass() -> Atoms:
    """Crystalline Li7P3S11, 84 atoms, with the momenta of 300 K."""
    cif = ROOT / "data/structures/materials_project/Li7P3S11_mp-641703-GGA.cif"
    atoms = ase.io.read(cif).repeat((2, 1, 1))
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    rng = np.random.default_rng(0)
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses() * units.kB * 300)[:, None])
    return labelled(atoms)


def labelled(atoms: Atoms, energy: float = -300.0, pressure: float = 0.0, **more) -> Atoms:
    stress = -pressure * units.GPa * np.array([1, 1, 1, 0, 0, 0.0])
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((len(atoms), 3)), stress=stress)
    atoms.calc.results.update(more)
    return atoms


def snapshot(atoms: Atoms, **more) -> Snapshot:
    given = {"target_K": 300.0, "stage_K": 300.0, "stage_ps": 2.0, "degrees": 3 * len(atoms) - 3, **more}
    return Snapshot(atoms, **given)


def found(guards, start: Snapshot, now: Snapshot) -> dict:
    alarms = [guard.check(now, guard.reference(start)) for guard in guards]
    return {alarm.guard: alarm for alarm in alarms if alarm is not None}


def hot():
    atoms = glass()
    atoms.set_momenta(atoms.get_momenta() * 1.8)
    return snapshot(labelled(atoms))


def fallen():
    return snapshot(labelled(glass(), energy=-300.0 - 1.2 * 84))


def drifting():
    return snapshot(glass(), drift=0.045 * 84 * 2.0)


def pressed():
    return snapshot(labelled(glass(), pressure=35.0))


def close():
    atoms = glass()
    first = int(np.flatnonzero(atoms.symbols == "P")[0])
    atoms.positions[0] = atoms.positions[first] + [0.9, 0, 0]
    return snapshot(labelled(atoms))


def ballistic():
    atoms = glass()
    momenta = atoms.get_momenta()
    momenta[7] = [0, 0, 18 * np.sqrt(atoms.get_masses()[7] * units.kB * 300)]
    atoms.set_momenta(momenta)
    return snapshot(labelled(atoms), degrees=10**4)


def disagreeing():
    spread = np.zeros((84, 3))
    spread[5] = [0.8, 0.8, 0.8]
    return snapshot(labelled(glass(), forces_std=spread))


def extrapolating():
    grades = np.full(84, 0.9)
    grades[[5, 9]] = 3.0, np.inf
    return snapshot(labelled(glass(), gamma=grades))


def wrong():
    errors = np.zeros(84)
    errors[5] = 1.5
    return snapshot(labelled(glass(), forces_error=errors, forces_std=np.full((84, 3), 0.1)))


CASES = {
    "TooHot": (hot, [], "K where 300 K is expected"),
    "Energy": (fallen, [], "changed by -1.20 eV/atom"),
    "Energy, drift": (drifting, [], r"drifts by \+45.0 meV/atom/ps"),
    "Pressure": (pressed, [], "35.* GPa"),
    "TooClose": (close, [0], "Li 0 and P|P .* and Li 0"),
    "Ballistic": (ballistic, [7], "18.0 times its thermal speed"),
    "Uncertain": (disagreeing, [5], "the committee differs by 1.39 eV/Å on"),
    "Uncertain, calibrated": (wrong, [5], "may be wrong by 1.50 eV/Å on"),
    "Extrapolating": (extrapolating, [5, 9], r"inf on .* 9 \(limit 2.5\)"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_guard_finds_its_fault_and_blames_the_atoms(case):
    make, atoms, words = CASES[case]
    alarms = found(EVERY, snapshot(glass()), make())
    assert list(alarms) == [case.partition(",")[0]]
    (alarm,) = alarms.values()
    assert re.search(words, alarm.message), alarm.message
    assert set(atoms) <= set(alarm.atoms)


def test_nothing_is_found_where_nothing_is_wrong(rng):
    atoms = glass()
    atoms.positions += rng.normal(scale=0.12, size=atoms.positions.shape)
    assert found(EVERY, snapshot(glass()), snapshot(labelled(atoms))) == {}


def test_a_void_is_found_where_matter_draws_back():
    atoms = glass()
    scaled = atoms.get_scaled_positions()
    scaled[:, 0] = 0.05 + 0.6 * scaled[:, 0]  # all atoms into two thirds of the cell
    atoms.set_scaled_positions(scaled)
    atoms.set_cell(atoms.cell.array * [[1.6], [1], [1]], scale_atoms=True)
    alarm = found([Voids()], snapshot(glass()), snapshot(atoms))["Voids"]
    assert "empty sphere" in alarm.message


def test_the_radius_of_a_void_is_that_of_a_known_lattice():
    lattice = bulk("Po", "sc", a=4.0).repeat((2, 2, 2))
    radius, share, centre = Voids(spacing_A=0.25, probe_A=3.0).measure(lattice)
    assert radius == pytest.approx(4.0 * np.sqrt(3) / 2, abs=0.25)
    np.testing.assert_allclose(np.abs(centre % 4.0 - 2.0), 0, atol=0.26)
    vacancy = lattice.copy()
    del vacancy[0]
    assert Voids(spacing_A=0.25).measure(vacancy)[0] == pytest.approx(4.0, abs=0.25)
    assert 0 < share < Voids(spacing_A=0.25, probe_A=3.0).measure(vacancy)[1]


@pytest.mark.parametrize(("pbc", "radius"), [(False, 2 * np.sqrt(3)), ((True, True, False), np.sqrt(4 + 4 + 16))])
def test_voids_are_measured_where_not_all_directions_are_periodic(pbc, radius):
    lattice = bulk("Po", "sc", a=4.0).repeat((3, 3, 3))
    lattice.pbc = pbc
    if pbc is False:
        lattice.cell = None
    assert Voids(spacing_A=0.25).measure(lattice)[0] == pytest.approx(radius, abs=0.3)


def mixture(sorted_by_kind: bool) -> Atoms:
    atoms = bulk("Li", "sc", a=3.0).repeat((8, 4, 4))
    kinds = np.array([3, 16] * (len(atoms) // 2))
    rng = np.random.default_rng(2)
    rng.shuffle(kinds)
    order = np.argsort(atoms.positions[:, 0], kind="stable")
    if sorted_by_kind:
        kinds = np.sort(kinds)
    atoms.numbers[order] = kinds
    return labelled(atoms)


def test_separated_phases_are_found_and_mixing_is_not():
    mixed, separate = snapshot(mixture(False)), snapshot(mixture(True))
    alarm = found([PhaseSeparation()], mixed, separate)["PhaseSeparation"]
    assert "gathers" in alarm.message
    assert found([PhaseSeparation()], separate, mixed) == {}
    assert found([PhaseSeparation(demixing=5.0)], mixed, separate)["PhaseSeparation"].message.startswith(
        "the local composition"
    )


def test_demixing_of_a_random_mixture_is_one_and_of_two_slabs_is_nearly_two():
    assert PhaseSeparation().measure(mixture(False))["demixing"] == pytest.approx({"Li": 1.0, "S": 1.0}, abs=0.06)
    slabs = PhaseSeparation(radius_A=3.1).measure(mixture(True))
    # six neighbours; two of eight layers of each kind have one of the other kind
    assert slabs["demixing"]["Li"] == pytest.approx(2 * (1 - 2 / 4 / 6), rel=1e-6)


def test_matter_that_gathers_is_found_by_its_density():
    start = snapshot(mixture(False))
    atoms = mixture(False)
    scaled = atoms.get_scaled_positions()
    scaled[:, 0] = scaled[:, 0] ** 2
    atoms.set_scaled_positions(scaled)
    assert "local density" in found([PhaseSeparation()], start, snapshot(atoms))["PhaseSeparation"].message


def test_an_atom_that_leaves_is_found_and_one_that_was_alone_is_not():
    atoms = glass()
    atoms.set_cell(atoms.cell.array + np.diag([0, 0, 20.0]))
    start = snapshot(labelled(atoms.copy()))
    top = atoms.positions[:, 2].max()
    for which in (0, 3, 83):
        gone = atoms.copy()
        gone.positions[which] = [5, 5, top + 9]
        alone = snapshot(labelled(gone))
        assert found([Evaporated()], start, alone)["Evaporated"].atoms == [which]
        assert found([Evaporated()], alone, alone) == {}


def test_a_pair_that_leaves_and_an_atom_that_sees_its_own_image_are_found():
    slab = bulk("Al", cubic=True).repeat((1, 1, 4))
    slab.center(vacuum=15, axis=2)
    start = snapshot(labelled(slab.copy()))
    gone = slab.copy()
    gone.positions[[-1, -2], 2] += 9.0
    assert found([Evaporated()], start, snapshot(labelled(gone)))["Evaporated"].atoms == [14, 15]


def test_a_slow_drift_is_found_in_the_end():
    now = snapshot(glass(), drift=0.6 * 84, stage_ps=1000.0)
    assert "changed by +0.60" in found([Energy()], snapshot(glass()), now)["Energy"].message


def test_a_fall_beyond_the_full_reaction_is_a_hole_and_the_reaction_itself_is_not():
    """A reaction that releases 1.3 eV/atom may fall by 1.625; one of 0.4 by 0.5; the rise is limited as before."""

    def changed(by: float) -> Snapshot:
        atoms = glass()
        start = snapshot(glass()).atoms
        return snapshot(labelled(atoms, start.get_potential_energy() + by * len(atoms)))

    strong, weak = Energy(reaction=-1.3), Energy(reaction=-0.4)
    start = snapshot(glass())
    assert found([strong], start, changed(-1.5)) == {}
    assert "limit -1.6" in found([strong], start, changed(-1.7))["Energy"].message
    assert found([weak], start, changed(-0.45)) == {}
    assert "Energy" in found([weak], start, changed(-0.55))
    assert "limit 1)" in found([weak], start, changed(1.1))["Energy"].message
    assert "set `reaction`" in found([Energy()], start, changed(-1.1))["Energy"].message
    with pytest.raises(InputError, match="expected below 0"):
        Energy(reaction=0.785).check_settings()


def test_lost_bonds_are_found_at_the_atoms_that_lost_them():
    atoms = glass()
    sulphur = np.flatnonzero(atoms.symbols == "S")
    atoms.positions[sulphur[::2]] += [-1.5, 1.5, 0]
    alarm = found([BONDING], snapshot(glass()), snapshot(labelled(atoms)))["LostBonding"]
    assert alarm.message.startswith("P has")
    assert set(alarm.atoms) <= set(np.flatnonzero(atoms.symbols == "P").tolist())
    assert BONDING.reference(snapshot(glass())) == pytest.approx(4.0)
    with pytest.raises(InputError, match="no element 'Sulfur'"):
        LostBonding(centre="P", ligand="Sulfur", cutoff_A=2.7).check_settings()
    with pytest.raises(InputError, match="a distance in Å"):
        Voids(spacing_A=0.0).check_settings()


def test_heat_is_judged_by_the_thermostat_once_a_stage_has_settled():
    atoms = glass()
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(1500 / 300))
    from_melt = {"target_K": 300.0, "stage_K": 1500.0}
    start = snapshot(glass())
    assert found([TooHot()], start, snapshot(atoms, stage_ps=0.3, **from_melt)) == {}
    assert "TooHot" in found([TooHot()], start, snapshot(atoms, stage_ps=3.0, **from_melt))


def test_a_cold_structure_that_relaxes_is_not_too_hot():
    assert found([TooHot(), Ballistic()], snapshot(glass()), snapshot(glass(), target_K=10.0, stage_K=10.0)) == {}


def test_what_the_calculator_does_not_say_is_not_judged():
    atoms = glass()
    atoms.calc = SinglePointCalculator(atoms, energy=-300.0, forces=np.zeros((84, 3)))
    silent = [Pressure(), Uncertain(), Uncertain(by="forces_error"), Extrapolating(), Energy()]
    assert found(silent, snapshot(glass()), snapshot(atoms)) == {}
    assert found([TooClose()], snapshot(glass()), snapshot(atoms)) == {}
