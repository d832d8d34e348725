"""The physics that every potential promises, tried on each file of `finetune/backbones` and on shipped foundations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import make_supercell
from ase.geometry import complete_cell
from scipy.spatial.transform import Rotation

from finetune.graph import Graph
from finetune.potential import Potential
from finetune.properties import PER_STRUCTURE

from .contract import ALL, DOUBLE, REFERENCES, built, predict, predict_graph, same
from .structures import PERIODIC, SPARSE, STRUCTURES, frames, lithium, molecule, of_family, sulphide
from .tolerances import close

STEP = 1e-4  # Å, of finite differences


@pytest.fixture(params=DOUBLE)
def double(request: pytest.FixtureRequest) -> Potential:
    """Each potential, in double precision."""
    return built(request.param)


@pytest.fixture(params=ALL)
def potential(request: pytest.FixtureRequest) -> Potential:
    """Each potential, the foundations also in single precision."""
    return built(request.param)


def moved(atoms: Atoms, displacement: np.ndarray) -> Atoms:
    there = atoms.copy()
    there.positions += displacement
    return there


def strained(atoms: Atoms, strain: np.ndarray) -> Atoms:
    there = atoms.copy()
    there.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=False)
    there.positions = atoms.positions @ (np.eye(3) + strain)
    return there


def slope(potential: Potential, path: Callable[[float], Atoms]) -> float:
    """Central difference of the energy along a path, eV per unit of its parameter."""
    energies = predict(potential, path(STEP), path(-STEP)).energy
    return float(energies[0] - energies[1]) / (2 * STEP)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_forces_are_minus_the_energy_gradient(double, structure, rng):
    atoms = STRUCTURES[structure]()
    forces = predict(double, atoms).forces.numpy()
    assert np.abs(forces).max() > 0.05
    for _ in range(3):
        direction = rng.normal(size=forces.shape) / np.sqrt(forces.size)
        measured = slope(double, lambda s, d=direction: moved(atoms, s * d))
        close(measured, -(forces * direction).sum(), "finite difference")


@pytest.mark.parametrize("structure", PERIODIC)
def test_stress_is_the_strain_derivative_over_the_volume(double, structure, rng):
    atoms = STRUCTURES[structure]()
    stress = predict(double, atoms).stress[0].numpy()
    assert np.abs(stress).max() > 1e-3
    close(stress, stress.T, "identity, float64")
    for _ in range(3):
        strain = rng.normal(size=(3, 3))
        strain = (strain + strain.T) / 10
        measured = slope(double, lambda s, e=strain: strained(atoms, s * e)) / atoms.get_volume()
        close(measured, (stress * strain).sum(), "finite difference")


def test_tension_is_positive(double):
    if not double.pretrained:
        pytest.skip("random weights have no equilibrium")
    squeezed, stretched = (strained(lithium(), np.eye(3) * s) for s in (-0.1, 0.1))
    pressure = predict(double, squeezed, stretched).stress.diagonal(dim1=1, dim2=2).mean(dim=1)
    assert pressure[0] < 0 < pressure[1]


def test_stress_without_a_volume_is_not_known(potential):
    predicted = predict(potential, molecule(), lithium())
    assert predicted.stress[0].isnan().all()
    assert predicted.stress[1].isfinite().all()


@pytest.mark.parametrize("repeats", [(2, 1, 1), (1, 2, 3)])
def test_energy_is_extensive_and_forces_repeat(potential, repeats):
    for atoms in (sulphide(), lithium()):
        one, many = predict(potential, atoms), predict(potential, atoms.repeat(repeats))
        n = int(np.prod(repeats))
        close(many.energy, n * one.energy, same(potential))
        close(many.forces, one.forces.repeat(n, 1), same(potential))
        close(many.stress, one.stress, same(potential))


def test_another_choice_of_lattice_vectors_changes_nothing(potential):
    atoms = of_family("interface")
    sheared = make_supercell(atoms, [[1, 0, 0], [1, 1, 0], [0, -1, 1]], wrap=False)
    one, other = predict(potential, atoms), predict(potential, sheared)
    close(other.energy, one.energy, same(potential))
    close(other.forces, one.forces, same(potential))
    close(other.stress, one.stress, same(potential))


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "rotation and mirror"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_energy_is_invariant_and_forces_and_stress_rotate_along(potential, structure, improper):
    atoms = STRUCTURES[structure]()
    turn = Rotation.random(rng=np.random.default_rng(3)).as_matrix() * (-1 if improper else 1)
    turned = atoms.copy()
    turned.set_cell(complete_cell(atoms.cell) @ turn.T if atoms.pbc.any() else None)
    turned.positions = atoms.positions @ turn.T
    one, other = predict(potential, atoms), predict(potential, turned)
    rounded = same(potential).replace("identity", "rotation")
    matrix = torch.from_numpy(turn)
    close(other.energy, one.energy, rounded)
    close(other.forces, one.forces.double() @ matrix.T, rounded)
    close(other.stress, matrix @ one.stress.double() @ matrix.T, rounded)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_energy_is_invariant_under_permutation_and_forces_follow(potential, structure, rng):
    atoms = STRUCTURES[structure]()
    order = rng.permutation(len(atoms))
    one, other = predict(potential, atoms), predict(potential, atoms[order])
    close(other.energy, one.energy, same(potential))
    close(other.forces, one.forces[order], same(potential))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_translation_and_wrapping_change_nothing(potential, structure):
    atoms = STRUCTURES[structure]()
    there = moved(atoms, np.array([1.3, -4.7, 11.1]))
    there.wrap()
    one, other = predict(potential, atoms), predict(potential, there)
    close(other.energy, one.energy, same(potential))
    close(other.forces, one.forces, same(potential))
    close(one.forces.sum(dim=0), np.zeros(3), same(potential))


def test_a_batch_equals_its_members_one_by_one(potential):
    members = [make() for make in [*STRUCTURES.values(), *SPARSE.values()]]
    together = predict(potential, *members)
    sizes = [len(atoms) for atoms in members]
    for name, values in together.known().items():
        parts = values.split([1] * len(members) if name in PER_STRUCTURE else sizes)
        for atoms, part in zip(members, parts, strict=True):
            close(part, getattr(predict(potential, atoms), name), same(potential))


@pytest.mark.parametrize("structure", SPARSE)
def test_sparse_structures_give_numbers(potential, structure):
    predicted = predict(potential, SPARSE[structure]())
    assert predicted.energy.isfinite().all()
    assert predicted.forces.isfinite().all()
    if structure != "dimer without angles":
        close(predicted.forces, torch.zeros_like(predicted.forces), same(potential))


def test_energies_of_atoms_far_apart_add_up(potential):
    apart = predict(potential, Atoms("PS", [[0, 0, 0], [0, 0, 20]])).energy
    close(apart, predict(potential, Atoms("P"), Atoms("S")).energy.sum(), same(potential))


def test_a_dimer_scan_is_smooth_from_bonding_to_beyond_the_cutoff(double):
    distances = np.linspace(1.5, double.cutoff + 0.2, 400)
    predicted = predict(double, *(Atoms("LiS", [[0, 0, 0], [0, 0, d]]) for d in distances))
    force = predicted.forces.view(-1, 2, 3)[:, 1, 2].numpy()
    beyond = distances >= double.cutoff
    assert np.abs(force).max() > 0.05
    close(force[beyond], np.zeros(beyond.sum()), "identity, float64")
    work = np.cumsum((force[1:] + force[:-1]) / 2 * np.diff(distances))
    energy = predicted.energy.numpy()
    assert np.abs(energy[0] - energy[1:] - work).max() < 0.02 * np.ptp(energy)


def sizes(graph: Graph) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in graph.items()}


def test_energy_and_forces_are_continuous_when_atoms_cross_a_cutoff(double):
    glass = of_family("amorphous")
    direction = np.zeros((len(glass), 3))
    direction[0] = [0.6, 0.0, 0.8]
    grid = np.linspace(0, 1, 21)
    shapes = [sizes(double.graph(moved(glass, s * direction))) for s in grid]
    crossed: set[str] = set()
    for low, high, before, after in zip(grid, grid[1:], shapes, shapes[1:], strict=False):
        if {key for key in before if before[key] != after[key]} <= crossed:
            continue
        while high - low > 1e-9:
            middle = (low + high) / 2
            if sizes(double.graph(moved(glass, middle * direction))) == before:
                low = middle
            else:
                high = middle
        sides = [double.graph(moved(glass, s * direction)) for s in (low, high)]
        crossed |= {key for key in sides[0] if sides[0][key].shape != sides[1][key].shape}
        one, other = (predict_graph(double, double.collate([graph])) for graph in sides)
        close(other.energy, one.energy, "cutoff")
        close(other.forces, one.forces, "cutoff")
        close(other.stress, one.stress, "cutoff")
    lonely = sizes(double.graph(Atoms(glass.numbers, 50 * glass.positions)))
    varying = {key for key in lonely if lonely[key] != shapes[0][key]}
    assert crossed == varying  # every kind of neighbourhood (edges, angles) was entered or left


def rattled(count: int) -> list[Atoms]:
    mixed = [atoms for atoms in frames() if set(atoms.numbers.tolist()) == {3, 15, 16}]
    images = [mixed[k % len(mixed)].copy() for k in range(count)]
    for k, atoms in enumerate(images):
        atoms.rattle(0.1, seed=k)
    return images


def test_energy_of_an_atom_is_linear_in_its_descriptors_per_element(double):
    if not double.linear:
        pytest.skip("its readout is not linear")
    width = double.descriptors(double.collate([double.graph(lithium())])).shape[1]
    atoms = rattled(8)
    while min(sum((a.numbers == z).sum() for a in atoms) for z in REFERENCES) < 1.5 * width:
        atoms = rattled(len(atoms) + 4)
    graph = double.collate([double.graph(a) for a in atoms])
    features, energies = double.descriptors(graph).double(), predict_graph(double, graph).energies
    for number in REFERENCES:
        chosen = graph["numbers"] == number
        design = torch.cat([features[chosen], torch.ones(int(chosen.sum()), 1, dtype=torch.float64)], dim=1)
        target = energies[chosen].double()
        fitted = design @ torch.linalg.lstsq(design, target, driver="gelsd").solution
        assert target.std() > 1e-3
        close(fitted, target, "linear fit")


def test_energies_of_atoms_sum_to_the_energy(potential):
    atoms = [make() for make in [*STRUCTURES.values(), *SPARSE.values()]]
    predicted = predict(potential, *atoms)
    sums = torch.stack([part.sum() for part in predicted.energies.split([len(a) for a in atoms])])
    close(sums, predicted.energy, same(potential))
    assert predicted.energies.std() > 0.01


@pytest.mark.parametrize("name", DOUBLE)
def test_single_precision_agrees_with_double_precision(name):
    members = [make() for make in STRUCTURES.values()]
    single, double = predict(built(f"{name} float32"), *members), predict(built(name), *members)
    n = torch.tensor([len(atoms) for atoms in members])
    close(single.energy / n, double.energy / n, "float32 energy")
    close(single.forces, double.forces, "float32 forces")
    close(single.stress, double.stress, "float32 stress")
