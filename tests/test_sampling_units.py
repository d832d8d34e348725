"""Molecular units as building blocks: packed whole, as dense as asked for, apart, and counted by coordination."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from ase.units import mol
from scipy.spatial.transform import Rotation

from finetune.errors import InputError
from finetune.sampling import Context, Coordination, PackedUnits

ROOT = Path(__file__).parents[1]
UNITS = ROOT / "data/structures/units"
TETRAHEDRON = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)


@pytest.fixture
def methane(tmp_path: Path) -> Path:
    """A regular tetrahedron CH4 with bonds of 1.09 Å."""
    ase.io.write(tmp_path / "methane.xyz", Atoms("CH4", 1.09 * TETRAHEDRON))
    return tmp_path / "methane.xyz"


def packed(sampler: PackedUnits, number: int, seed: int = 0) -> list[Atoms]:
    return list(islice(sampler.frames((), Context(np.random.default_rng(seed))), number))


def whole(atoms: Atoms, first: int, size: int) -> np.ndarray:
    """Distances inside of one unit of a packed cell, by nearest images."""
    part = atoms[first : first + size]
    return part.get_all_distances(mic=True)


def test_units_are_packed_rigid_at_the_density_and_the_distances_asked_for(methane: Path) -> None:
    sampler = PackedUnits(
        cells=({"methane": 6, "Li": 3},),
        density_g_cm3=(0.4, 0.5),
        units={"methane": methane},
        distances_A={"H-H": 2.2, "C-H": 2.5, "Li-H": 2.0},
        closest=0.9,
    )
    for atoms in packed(sampler, 3):
        assert atoms.get_chemical_formula() == "C6H24Li3"
        density = atoms.get_masses().sum() / mol * 1e24 / atoms.get_volume()
        assert 0.4 <= density <= 0.5
        for k in range(6):
            np.testing.assert_allclose(whole(atoms, 5 * k, 5)[0, 1:], 1.09, atol=1e-8)  # C-H
            np.testing.assert_allclose(whole(atoms, 5 * k, 5)[1, 2:], 1.09 * np.sqrt(8 / 3), atol=1e-8)  # H-H
        unit = np.append(np.repeat(np.arange(6), 5), [6, 7, 8])
        i, j, distances = neighbor_list("ijd", atoms, {("H", "H"): 2.15, ("C", "H"): 2.45, ("Li", "H"): 1.95})
        assert (unit[i] == unit[j]).all()
        assert distances.max() < 1.8


def test_orientations_are_random_and_frames_follow_from_the_seed(methane: Path) -> None:
    sampler = PackedUnits(cells=({"methane": 2},), density_g_cm3=(0.3, 0.3), units={"methane": methane})
    one, two = packed(sampler, 2, seed=1)
    again = packed(sampler, 1, seed=1)[0]
    np.testing.assert_array_equal(one.positions, again.positions)
    assert one.info["group"] == again.info["group"] != two.info["group"]
    bonds = [a.positions[k + 1 : k + 5] - a.positions[k] for a in (one, two) for k in (0, 5)]
    turns = [Rotation.align_vectors(b, bonds[0])[0].magnitude() for b in bonds[1:]]
    assert min(turns) > 0.05


def test_a_unit_larger_than_half_the_cell_keeps_away_from_its_own_images(tmp_path: Path) -> None:
    rod = Atoms("He5", [[1.0 * k, 0, 0] for k in range(5)])
    ase.io.write(tmp_path / "rod.xyz", rod)
    sampler = PackedUnits(
        cells=({"rod": 1},), density_g_cm3=(0.25, 0.25), units={"rod": tmp_path / "rod.xyz"}, distances_A={"He-He": 2.0}
    )
    for atoms in packed(sampler, 5):
        shifts = neighbor_list("S", atoms, 1.9)
        assert len(shifts) == 8  # four bonds, each seen from both ends
        assert (shifts == 0).all()


def test_a_unit_is_taken_from_a_crystal_by_its_bonds() -> None:
    """The units of the shipped files are the bonded components of the shipped crystals."""
    crystal = ROOT / "data/structures/materials_project/Li7P3S11_mp-641703-GGA.cif"
    for name in ("PS4", "P2S7"):
        sampler = PackedUnits(
            cells=({name: 1},), density_g_cm3=(1.0, 1.0), units={name: crystal}, bonds={"P-S": 2.6, "P-P": 2.5}
        )
        shipped: Atoms = ase.io.read(UNITS / f"{name}.xyz")
        cut = sampler.unit(name)
        assert cut.symbols.formula.count() == shipped.symbols.formula.count()
        bonds = [np.sort(a.get_all_distances()[a.symbols == "P"][:, a.symbols == "S"].ravel()) for a in (cut, shipped)]
        np.testing.assert_allclose(*bonds, atol=0.1)


def test_units_that_do_not_fit_raise_and_name_the_density(methane: Path) -> None:
    sampler = PackedUnits(
        cells=({"methane": 4},), density_g_cm3=(3.0, 3.0), units={"methane": methane}, distances_A={"H-H": 2.2}
    )
    with pytest.raises(InputError, match=r"3\.00 g/cm³ is too dense"):
        packed(sampler, 1)


def test_atoms_that_nearly_fit_are_packed_at_distances_a_little_shorter() -> None:
    """Random packing cannot reach the density of the closest packing, pi / sqrt(18); the record holds the factor."""
    he = Atoms("He").get_masses()[0] / mol * 1e24
    closest_packed = np.sqrt(2) / 2.0**3 * he  # g/cm³ of spheres of 2 Å
    density = (0.95 * closest_packed, 0.95 * closest_packed)
    (atoms,) = packed(PackedUnits(cells=({"He": 20},), density_g_cm3=density, distances_A={"He-He": 2.0}), 1)
    shrunk = float(atoms.info["made_by"].split("distances x ")[1].split(",")[0])
    assert 0.7 < shrunk < 1
    assert 2 * shrunk - 0.04 < neighbor_list("d", atoms, 2.0).min() < 2.0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cells": ({"PS9": 1},)}, "got 'PS9', expected PS4, element symbols"),
        ({"units": {"PS4": Path("none.xyz")}}, "no file none.xyz"),
        (
            {"units": {"PS4": ROOT / "data/structures/materials_project/Li3PS4_mp-985583-r2SCAN.cif"}},
            "`bonds` is empty",
        ),
        ({"distances_A": {"P": 2.0}}, "pair 'P'"),
        ({"cells": ({},)}, "expected numbers of units"),
        ({"density_g_cm3": (2.0, 1.0)}, "density_g_cm3"),
    ],
)
def test_mistakes_in_units_are_named(settings: dict[str, object], words: str) -> None:
    sound: dict[str, object] = {
        "cells": ({"PS4": 1},),
        "density_g_cm3": (1.0, 1.0),
        "units": {"PS4": UNITS / "PS4.xyz"},
    }
    with pytest.raises(InputError, match=words):
        packed(PackedUnits(**{**sound, **settings}), 1)  # type: ignore[arg-type]


def test_the_coordination_of_crystals_and_of_a_broken_unit_is_counted() -> None:
    salt = bulk("NaCl", "rocksalt", a=5.64).repeat(2)
    unit: Atoms = ase.io.read(UNITS / "P2S7.xyz")
    broken = unit.copy()
    far = int(np.flatnonzero(broken.symbols == "S")[np.argmax(broken.get_distances(0, broken.symbols == "S"))])
    broken.positions[far] *= 2.0
    hold = Coordination("Na", ("Cl",), 3.0), Coordination("P", ("S",), 2.6)
    context = Context(np.random.default_rng(0))
    salt_info = next(iter(hold[0].frames([salt], context))).info
    assert salt_info["coordination_Na_Cl"] == "6:1"
    found = [atoms.info.get("coordination_P_S") for atoms in hold[1].frames([unit, broken, salt], context)]
    assert found == ["4:1", "4:0.5 3:0.5", None]


def test_ligands_count_together() -> None:
    """P of hypothiodiphosphate has three S and one P."""
    unit: Atoms = ase.io.read(UNITS / "P2S6.xyz")
    context = Context(np.random.default_rng(0))
    chain = Coordination("P", ("S", "P"), 2.6).frames(Coordination("P", ("S",), 2.6).frames([unit], context), context)
    info = next(iter(chain)).info
    assert (info["coordination_P_S"], info["coordination_P_S_P"]) == ("3:1", "4:1")
