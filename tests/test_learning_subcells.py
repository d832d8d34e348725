"""Sub-cells: the surroundings of an uncertain atom stay, the rest fits into a cell that DFT can take."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.geometry import find_mic, get_distances
from ase.neighborlist import neighbor_list
from ase.optimize import FIRE

from finetune.backbones.ace import ACE
from finetune.calculators import PotentialCalculator
from finetune.errors import InputError
from finetune.labelling.store import identity
from finetune.learning import Thresholds, gathering
from finetune.learning.files import write_part
from finetune.learning.subcells import Cutter, centres, cut, subcells
from finetune.learning.surroundings import relaxed, surroundings
from finetune.sampling.core import Limits

from .structures import ROOT


@pytest.fixture(scope="module")
def large() -> Atoms:
    """A rattled Li | Li7P3S11 interface of more than 10,000 atoms."""
    small = ase.io.read(ROOT / "data/campaign/structures/li-li7p3s11.extxyz@0")
    atoms = small.repeat((5, 4, 9))
    atoms.rattle(0.1, seed=1)
    assert len(atoms) > 10_000
    return atoms


def around(atoms: Atoms, centre: int, radius: float) -> np.ndarray:
    """Atomic number and vector of each neighbour, by brute force over images."""
    images = np.array(list(itertools.product((-1, 0, 1), repeat=3))) @ atoms.cell.array
    vectors = (atoms.positions[None] + images[:, None] - atoms.positions[centre]).reshape(-1, 3)
    lengths = np.linalg.norm(vectors, axis=1)
    near = (lengths <= radius) & (lengths > 1e-9)
    rows = np.column_stack([np.tile(atoms.numbers, len(images))[near], vectors[near]])
    return rows[np.lexsort(rows.round(4).T[::-1])]


@pytest.mark.parametrize("centre", [100, 3011, 9017])
def test_surroundings_are_identical_up_to_the_radius(large: Atoms, centre: int) -> None:
    found = cut(large, centre, Cutter(atoms=80, radius_A=4.5))
    assert 40 < len(found) <= 80
    before, after = around(large, centre, 4.5), around(found, found.info["centre"], 4.5)
    assert len(before) > 8
    np.testing.assert_allclose(after, before, atol=1e-6)
    np.testing.assert_allclose(surroundings(found, found.info["centre"], 4.5), before, atol=1e-6)


@pytest.mark.parametrize("closest", [0.7, 0.9])
def test_no_new_pair_is_closer_than_what_is_sane(large: Atoms, closest: float) -> None:
    found = cut(large, 3011, Cutter(radius_A=4.0, closest=closest, padding_A=0.0))
    i, j, vectors, lengths = neighbor_list("ijDd", found, 3.0)
    ratios = lengths / (covalent_radii[found.numbers[i]] + covalent_radii[found.numbers[j]])
    old = neighbor_list("D", large, 3.0)
    there = {tuple(row) for row in old.round(3).tolist()}
    new = np.array([tuple(row) not in there for row in vectors.round(3).tolist()])
    assert ratios[new].min(initial=np.inf) >= closest


def test_the_box_is_about_as_dense_as_where_it_was_cut_out(large: Atoms) -> None:
    found = [cut(large, centre, Cutter()) for centre in (3011, 9017)]
    volumes = [atoms.get_volume() / len(atoms) for atoms in found]
    assert all(0.85 < volume / (large.get_volume() / len(large)) < 1.3 for volume in volumes)


@pytest.fixture(scope="module")
def dense() -> Atoms:
    """Rattled Li7P3S11, whose volume per atom is known: that of the crystal."""
    crystal = ase.io.read(ROOT / "data/structures/materials_project/Li7P3S11_mp-641703-GGA.cif").repeat((3, 3, 3))
    crystal.rattle(0.1, seed=1)
    return crystal


@pytest.mark.parametrize("options", [{"padding_A": 1.2}, {"atoms": 110, "radius_A": 4.0, "bonds": {"P-S": 2.6}}])
def test_the_volume_per_atom_is_the_parents_however_wide_the_padding(dense: Atoms, options: dict[str, Any]) -> None:
    """Unclosed, units in 110 atoms have 24 to 26 Å³/atom; the crystal has 20.9, known around atoms to 3 %."""
    found, refused = subcells(dense, np.eye(len(dense))[500], Cutter(centres=1, **options))
    assert refused == []
    volume = found[0].get_volume() / len(found[0])
    assert volume / (dense.get_volume() / len(dense)) == pytest.approx(1.0, abs=0.15 + 0.03)


def test_a_cut_that_cannot_keep_the_volume_is_refused_with_the_figure(dense: Atoms) -> None:
    with pytest.raises(InputError, match=r"got a volume per atom \+0\.\d+ off .* expected within 0\.15"):
        cut(dense, 500, Cutter(closest=1.1, radius_A=4.0))
    with pytest.raises(InputError, match="`volume`"):
        Cutter(volume=0.0)


def test_composition_and_story_are_told(large: Atoms) -> None:
    large.info |= {"family": "interface", "group": "g", "made_by": "md"}
    found = cut(large, 3011, Cutter())
    assert found.info["composition"] == found.get_chemical_formula()
    assert found.info["cut_out_of"] == large.get_chemical_formula()
    assert found.info["made_by"] == f"md > Subcell(atom 3011 of {len(large)}, 4.5 Å)"
    assert (found.info["family"], found.info["group"]) == ("interface", "g")
    assert found.numbers[found.info["centre"]] == large.numbers[3011]
    assert found.pbc.all()


def test_molecules_stay_whole(large: Atoms) -> None:
    """Every P keeps the S that it was bonded to; without bonds some are cut."""

    def coordination(atoms: Atoms) -> np.ndarray:
        i = neighbor_list("i", atoms, {("P", "S"): 2.6})
        return np.bincount(i, minlength=len(atoms))[atoms.numbers == 15]

    whole = min(coordination(large))
    found = cut(large, 5055, Cutter(atoms=110, radius_A=4.0, bonds={"P-S": 2.6}))
    assert (found.numbers == 15).any()
    assert coordination(found).min() >= whole


def test_short_periods_are_kept() -> None:
    """A cell that is short along two axes is cut along the third only."""
    small = ase.io.read(ROOT / "data/campaign/structures/li-li7p3s11.extxyz@0")
    column = small.repeat((2, 1, 6))
    found = cut(column, 10, Cutter(atoms=160))
    np.testing.assert_allclose(found.cell.array[:2], column.cell.array[:2])
    assert found.cell.lengths()[2] < column.cell.lengths()[2]


def test_centres_are_the_most_uncertain_atoms_far_from_each_other(large: Atoms) -> None:
    scores = np.zeros(len(large))
    scores[[5, 3011, 9017]] = [1.0, 3.0, 2.0]
    near = int(np.argsort(get_distances(large.positions[3011], large.positions, large.cell, True)[1][0])[1])
    scores[near] = 2.9
    assert centres(large, scores, Cutter(centres=2)) == [3011, 9017]
    found, refused = subcells(large, scores, Cutter(centres=2))
    assert [len(atoms) <= 80 for atoms in found] == [True, True]
    assert refused == []


def test_what_is_uncertain_at_a_new_boundary_asks_for_no_label(large: Atoms, tmp_path: Path, monkeypatch) -> None:
    def far_from_the_middle(part: Atoms, *_: object) -> np.ndarray:
        return np.asarray(0.1 + part.get_distances(part.info["centre"], range(len(part)), mic=True))

    monkeypatch.setattr(gathering, "scored", far_from_the_middle)
    monkeypatch.setattr(gathering, "grading", lambda *_: object())
    monkeypatch.setattr(gathering.models, "members", lambda _: ["chgnet"])
    scores = np.zeros(len(large))
    scores[3011] = 2.0
    large.info["score"], large.arrays["scores"] = 2.0, scores
    (tmp_path / "explored").mkdir()
    write_part(tmp_path / "explored", "run-000", [large, large], {})
    thresholds, cutter = Thresholds(select=1.0, stop=50.0), Cutter(radius_A=4.5, centres=3)
    with ThreadPoolExecutor(1) as executor:
        [part], about = gathering.gather_candidates(tmp_path, thresholds, cutter, tmp_path, executor)
        monkeypatch.setattr(gathering, "scored", None)  # what has been gathered is not gathered again
        [again], _ = gathering.gather_candidates(tmp_path, thresholds, cutter, tmp_path, executor)
    assert identity(again) == identity(part)
    assert (about["explored"], about["repeated"], about["cut"]) == (2, 1, 1)  # only one atom is above the threshold
    assert 3.0 < part.info["score"] <= 0.1 + 4.5
    assert far_from_the_middle(part).max() > 0.1 + 4.5
    assert part.arrays["scores"][~part.arrays["inside"]].max() == 0.0
    assert part.arrays["inside"][int(part.info["worst"].split()[1])]
    assert about["candidates"] == 1


def test_relaxation_moves_only_what_lies_outside(large: Atoms) -> None:
    torch_potential = ACE(["Li", "P", "S"], cutoff=3.0, nmax=[3], lmax=[0], functions=None, core={})
    settings = Cutter(radius_A=4.0, closest=0.6, padding_A=0.0)
    before = cut(large, 3011, settings)
    after = relaxed(before, PotentialCalculator(torch_potential), 4.0, 2)
    moved = np.linalg.norm(after.positions - before.positions, axis=1)
    near = before.get_distances(before.info["centre"], range(len(before)), mic=True) <= 4.0
    assert moved[near].max() == 0.0
    assert moved[~near].max() > 0.0


@pytest.mark.parametrize(("inside", "outside", "count"), [(0.5, 9.0, "certain_cut"), (2.0, 90.0, "beyond")])
def test_subcells_that_are_certain_where_they_count_or_hopeless_are_counted_and_dropped(
    large: Atoms, tmp_path: Path, monkeypatch, inside: float, outside: float, count: str
) -> None:
    monkeypatch.setattr(gathering, "scored", lambda part, *_: np.where(part.arrays["inside"], inside, outside))
    monkeypatch.setattr(gathering, "grading", lambda *_: object())
    monkeypatch.setattr(gathering.models, "members", lambda _: ["chgnet"])
    atoms = large.copy()
    atoms.arrays["scores"] = np.where(np.arange(len(atoms)) == 3011, 2.0, 0.0)
    atoms.info["score"] = 2.0
    (tmp_path / "explored").mkdir()
    write_part(tmp_path / "explored", "run-000", [atoms], {})
    with ThreadPoolExecutor(1) as executor:
        found, about = gathering.gather_candidates(
            tmp_path, Thresholds(select=1.0, stop=50.0), Cutter(radius_A=4.5), tmp_path, executor
        )
    assert found == []
    wanted = {"cut": 1, "certain_cut": 0, "beyond": 0} | {count: 1}
    assert {name: about[name] for name in wanted} == wanted


class Inward(Calculator):
    """Draws every atom to a point."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, point: np.ndarray) -> None:
        super().__init__()
        self.point = point

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        pull = find_mic(self.point - self.atoms.positions, self.atoms.cell, self.atoms.pbc)[0]
        self.results = {"energy": 0.5 * float((pull**2).sum()), "forces": pull}


def test_relaxation_ends_before_an_atom_comes_in(large: Atoms) -> None:
    before = cut(large, 3011, Cutter(radius_A=4.0))
    own = before.info["centre"]
    calculator = Inward(before.positions[own])
    after = relaxed(before, calculator, 4.0, 50)
    np.testing.assert_allclose(surroundings(after, own, 4.0), surroundings(before, own, 4.0), atol=1e-9)
    assert Limits().reason(after) is None
    free = before.copy()
    free.set_constraint(FixAtoms(mask=free.arrays["inside"]))
    free.calc = calculator
    FIRE(free, logfile=None, maxstep=0.1).run(steps=50)
    assert len(surroundings(free, own, 4.0)) > len(surroundings(before, own, 4.0))


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"atoms": 30}, "lower radius_A or raise atoms"), ({"atoms": 20_000}, "nothing to cut")],
)
def test_what_cannot_be_cut_is_refused_with_a_remedy(large: Atoms, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        cut(large, 3011, Cutter(**settings))
    with pytest.raises(InputError, match="periodic"):
        cut(Atoms("Li2", [[0, 0, 0], [0, 0, 3]]), 0, Cutter(atoms=1))


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="above 0"):
        Cutter(radius_A=0.0)
    with pytest.raises(InputError, match="two elements"):
        Cutter(bonds={"PS": 2.6})
