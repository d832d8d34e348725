"""A neighbour list with a skin gives what a fresh list gives, to the last bit, however the structure moves."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.neighborlist import primitive_neighbor_list

import finetune
from finetune.errors import InputError
from finetune.graph import edge_vectors, neighbour_graph
from finetune.neighbours import SkinList

from .structures import STRUCTURES, lithium, molecule, of_family
from .tolerances import close

CUTOFF = 5.0


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(one[key].equal(other[key]) for key in one)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_neighbours_are_all_pairs_within_the_cutoff(structure):
    atoms = STRUCTURES[structure]()
    graph = neighbour_graph(atoms, CUTOFF)
    i, _, _, vectors = primitive_neighbor_list("ijSD", atoms.pbc, atoms.cell, atoms.positions, CUTOFF)
    rows = np.column_stack([i, vectors])
    ours = np.column_stack([graph["edge_index"][0].numpy(), edge_vectors(graph).numpy()])
    assert len(ours) == len(rows) > 0
    np.testing.assert_allclose(ordered(ours), ordered(rows), atol=1e-10)


def ordered(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(np.round(rows, 6).T)]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("flow", [0.0, 0.01], ids=["rigid cell", "flowing cell"])
def test_a_list_with_a_skin_has_the_bits_of_a_fresh_one(structure, flow, rng):
    atoms = STRUCTURES[structure]()
    kept = SkinList(CUTOFF, skin=1.0)
    for _ in range(40):
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        strain = np.eye(3) + rng.normal(scale=flow, size=(3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=bool(atoms.pbc.any()))
        assert equal(kept.graph(atoms), neighbour_graph(atoms, CUTOFF))
    assert 1 <= kept.searches < 40


def test_an_atom_that_comes_from_afar_is_seen(rng):
    atoms = Atoms("Li2", [[0, 0, 0], [0, 0, 20.0]], pbc=False)
    kept = SkinList(CUTOFF)
    assert kept.graph(atoms)["edge_index"].shape[1] == 0
    atoms.positions[1, 2] = 3.0
    assert kept.graph(atoms)["edge_index"].shape[1] == 2


def test_a_pair_that_a_shear_brings_together_is_seen():
    atoms = Atoms("Li2", [[0, 0, 0], [0, 3.0, 6.0]], cell=[30.0, 30, 30], pbc=True)
    kept = SkinList(CUTOFF, skin=0.5)
    assert kept.graph(atoms)["edge_index"].shape[1] == 0
    shear = np.eye(3)
    shear[2, 1] = -0.5
    atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    atoms.set_cell(atoms.cell.array * 0.8, scale_atoms=True)
    assert np.linalg.norm(atoms.positions[1] - atoms.positions[0]) < CUTOFF
    assert equal(kept.graph(atoms), neighbour_graph(atoms, CUTOFF))


@pytest.mark.parametrize("change", ["species", "wrapped", "atoms", "periodicity"])
def test_another_structure_is_searched_anew(change):
    atoms = of_family("amorphous")
    kept = SkinList(CUTOFF)
    kept.graph(atoms)
    if change == "species":
        atoms.numbers[0] = 3 if atoms.numbers[0] != 3 else 16
    elif change == "wrapped":
        atoms.positions[0] += 2 * atoms.cell.array[0]
    elif change == "atoms":
        atoms = atoms.repeat((2, 1, 1))
    else:
        atoms.pbc = [True, True, False]
    assert equal(kept.graph(atoms), neighbour_graph(atoms, CUTOFF))
    assert kept.searches == 2


def test_what_has_no_neighbour_list_is_refused_with_a_list_at_hand_too():
    atoms = lithium()
    kept = SkinList(CUTOFF, skin=3.0)
    kept.graph(atoms)
    lost, fused = atoms.copy(), atoms.copy()
    lost.positions[0, 0] = np.nan
    fused.positions[1] = fused.positions[0] + 1e-5
    with pytest.raises(InputError, match="not finite"):
        kept.graph(lost)
    with pytest.raises(InputError, match="on top of each other"):
        kept.graph(fused)


def test_a_copy_searches_for_itself():
    kept = SkinList(CUTOFF)
    kept.graph(molecule())
    copy = pickle.loads(pickle.dumps(kept))
    assert equal(copy.graph(molecule()), kept.graph(molecule()))
    assert (copy.searches, kept.searches) == (2, 1)


@pytest.mark.parametrize("model", ["chgnet", "mace:mini"])
def test_dynamics_with_a_skin_follow_the_same_trajectory(model):
    ends = []
    for skin in (0.0, 0.6):
        atoms = of_family("crystal")
        atoms.calc = finetune.calculator(model, device="cpu", skin=skin)
        rng = np.random.default_rng(0)
        atoms.set_momenta(rng.normal(size=(len(atoms), 3)))
        Langevin(atoms, 2 * units.fs, temperature_K=900, friction=0.01 / units.fs, fixcm=False, rng=rng).run(20)
        ends.append(atoms)
        assert (atoms.calc.neighbours.searches < 15) == (skin > 0)
    close(ends[0].positions, ends[1].positions, "same graph")
