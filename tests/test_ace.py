"""The functions of the atomic cluster expansion against sums over tuples of neighbours, and what they promise."""

from __future__ import annotations

import importlib
import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii
from scipy.integrate import quad_vec
from scipy.special import sph_harm_y, spherical_jn
from sympy.physics.wigner import wigner_3j

from finetune import models
from finetune.errors import InputError

from .structures import lithium, of_family, sulphide
from .tolerances import close

ACE = models.backbone("ace")
embedded = importlib.import_module(ACE.__module__).embedded
SMALL = {"nmax": [3, 2, 2, 1], "lmax": [0, 2, 2, 1], "functions": None, "cutoff": 5.0}


def cluster() -> Atoms:
    """Five neighbours of both species around a lithium atom at the origin."""
    places = [[0, 0, 0], [1.9, 0.4, 0.3], [-1.1, 1.8, 0.9], [0.2, -2.1, 1.5], [-1.7, -1.6, -1.2], [0.9, 1.1, -2.9]]
    return Atoms("LiSPSLiP", places)


def functions(potential, atoms: Atoms) -> np.ndarray:
    return potential.descriptors(potential.collate([potential.graph(atoms)])).numpy()


def harmonics(l: int, m: int, vectors: np.ndarray) -> np.ndarray:
    """Complex spherical harmonics with Y_00 = 1."""
    r = np.linalg.norm(vectors, axis=1)
    polar, azimuth = np.arccos(vectors[:, 2] / r), np.arctan2(vectors[:, 1], vectors[:, 0])
    return np.sqrt(4 * np.pi) * sph_harm_y(l, m, polar, azimuth)


def ranges(ls: tuple[int, ...]) -> itertools.product:
    return itertools.product(*(range(-l, l + 1) for l in ls))


def coupled(ls: tuple[int, ...], L: int) -> dict[tuple[int, ...], float]:
    """Coefficients of an invariant in products of complex harmonics, by sympy's Wigner symbols."""
    if len(ls) == 1:
        return {(0,): 1.0}
    if len(ls) == 2:
        return {(m, -m): (-1.0) ** m for m in range(-ls[0], ls[0] + 1)}
    if len(ls) == 3:
        found = {m: float(wigner_3j(*ls, *m)) * np.sqrt(2 * L + 1) for m in ranges(ls)}
    else:
        pair = lambda a, b, c, m: float(wigner_3j(a, b, c, *m))  # noqa: E731
        found = {
            m: sum(
                (-1) ** M * pair(ls[0], ls[1], L, (m[0], m[1], M)) * pair(ls[2], ls[3], L, (m[2], m[3], -M))
                for M in range(-L, L + 1)
            )
            * (2 * L + 1)
            for m in ranges(ls)
        }
    return {m: value for m, value in found.items() if value}


def by_brute_force(potential, atoms: Atoms) -> list[complex]:
    """B of the first atom as sums over tuples of neighbours: complex harmonics of scipy, Wigner symbols of sympy."""
    vectors = atoms.positions[1:]
    species = np.array([["Li", "P", "S"].index(symbol) for symbol in atoms.symbols[1:]])
    distances = torch.from_numpy(np.linalg.norm(vectors, axis=1))
    g = potential.radial(distances, potential.cutoff, potential.n_radial).numpy().T
    y = {(l, m): harmonics(l, m, vectors) for l in range(3) for m in range(-l, l + 1)}
    found = []
    for f in potential.products.functions:
        ls = tuple(l for l, _, _ in f.channels)
        value = 0.0
        for neighbours in itertools.product(range(len(vectors)), repeat=f.order):
            if any(species[j] != mu for j, (_, mu, _) in zip(neighbours, f.channels, strict=True)):
                continue
            radials = np.prod([g[j, n] for j, (_, _, n) in zip(neighbours, f.channels, strict=True)])
            for ms, weight in coupled(ls, f.L).items():
                angular = [y[l, m][j] for j, l, m in zip(neighbours, ls, ms, strict=True)]
                value += weight * radials * np.prod(angular)
        found.append(complex(value))
    return found


@pytest.mark.parametrize("radial", ["bessel", "chebyshev"])
def test_functions_are_sums_over_tuples_of_neighbours(radial):
    """Real and complex harmonics couple to the same invariants, up to a sign that only depends on the function."""
    potential = ACE(["Li", "P", "S"], radial=radial, **SMALL)
    other = cluster()
    other.positions[1:, 0] += 0.3
    assert {f.order for f in potential.products.functions} == {1, 2, 3, 4}
    signs = []
    for atoms in (cluster(), other):
        ours, expected = functions(potential, atoms)[0], np.array(by_brute_force(potential, atoms))
        size = np.maximum(1.0, np.abs(ours))
        phase = np.where(np.abs(expected.real) > np.abs(expected.imag), expected.real, expected.imag)
        close(np.abs(ours) / size, np.abs(expected) / size, "identity, float64")
        signs.append(np.where(np.abs(ours) > 1e-6, np.sign(ours * phase), 0))
    assert (signs[0] * signs[1] >= 0).all()


def test_spherical_harmonics_are_those_of_scipy_in_real_form(rng):
    harmonics_of = importlib.import_module(ACE.__module__).spherical_harmonics
    vectors = rng.normal(size=(20, 3))
    units = torch.from_numpy(vectors.T / np.linalg.norm(vectors, axis=1))
    found = harmonics_of(units, 5).numpy()
    for l in range(6):
        for m in range(l + 1):
            y = harmonics(l, m, vectors) * (np.sqrt(2) * (-1) ** m if m else 1)
            close(found[l * l + l + m], y.real, "identity, float64")
            close(found[l * l + l - m], y.imag if m else y.real, "identity, float64")


def test_order_two_follows_the_addition_theorem():
    potential = ACE(["Li", "P", "S"], nmax=[3, 2], lmax=[0, 3], functions=None, cutoff=5.0)
    atoms = cluster()
    units = atoms.positions[1:] / np.linalg.norm(atoms.positions[1:], axis=1)[:, None]
    g = potential.radial(torch.from_numpy(np.linalg.norm(atoms.positions[1:], axis=1)), 5.0, 3).numpy().T
    species = np.array([["Li", "P", "S"].index(symbol) for symbol in atoms.symbols[1:]])
    found = functions(potential, atoms)[0]
    for f, value in zip(potential.products.functions, found, strict=True):
        if f.order == 2:
            (l, a, n), (_, b, k) = f.channels
            legendre = np.polynomial.legendre.legval(units @ units.T, [0] * l + [2 * l + 1])
            expected = np.einsum("i,j,ij->", g[:, n] * (species == a), g[:, k] * (species == b), legendre)
            close(value, expected, "identity, float64")


@pytest.mark.parametrize(
    "sizes", [{}, {"functions": None}, {"nmax": [5, 3, 2, 2], "lmax": [0, 3, 2, 2], "functions": None}]
)
def test_no_function_depends_linearly_on_the_others(sizes, rng):
    potential = ACE(["Li", "P"] if sizes.get("lmax") else ["Li", "P", "S"], **sizes)
    count = len(potential.products.functions)
    rows = []
    while len(rows) < 1.3 * count:
        places = rng.uniform(-5, 5, size=(30, 3))
        places = places[np.linalg.norm(places, axis=1) > 1]
        kinds = rng.choice(potential.settings["elements"], size=len(places))
        atoms = Atoms(["Li", *kinds], np.vstack([np.zeros(3), places]))
        graph = potential.graph(atoms)
        first = int((graph["edge_index"][0] == 0).sum())  # the other atoms are there as neighbours only
        edges = {"edge_index": graph["edge_index"][:, :first], "shifts": graph["shifts"][:first]}
        rows.append(potential.descriptors({**graph, **edges})[0].numpy())
    design = np.array(rows)
    values = np.linalg.svd(design / np.linalg.norm(design, axis=0), compute_uv=False)
    assert values[-1] > 1e-7 * values[0]


def test_the_number_of_functions_of_the_reference_study():
    potential = ACE(["Li", "P", "S"])
    degrees = [f.degree for f in potential.products.functions if f.order > 1]
    assert len(potential.products.functions) == 341
    assert max(degrees) == 4
    assert len(ACE(["Li", "P", "S"], functions=None).products.functions) == 775


def test_a_choice_of_functions_prefers_no_element():
    for count in (60, 200, 350):
        potential = ACE(["Li", "P", "S"], functions=count)
        kinds = [tuple(sorted(channels)) for channels in (f.channels for f in potential.products.functions)]
        turned = [tuple(sorted((l, (mu + 1) % 3, n) for l, mu, n in channels)) for channels in kinds]
        assert sorted(kinds) == sorted(turned)


def test_energy_does_not_depend_on_the_order_of_elements(rng):
    atoms = of_family("amorphous")
    one, other = ACE(["Li", "P", "S"], **SMALL), ACE(["S", "Li", "P"], **SMALL)
    assert np.sort(functions(one, atoms)[0]).round(9).tolist() == np.sort(functions(other, atoms)[0]).round(9).tolist()


def test_spherical_bessel_functions_are_orthogonal_and_end_smoothly():
    cutoff, count = 6.0, 6
    radial = ACE(["Li"], cutoff=cutoff).radial

    def g(r: float) -> np.ndarray:
        return radial(torch.tensor([r], dtype=torch.float64), cutoff, count).numpy()[:, 0]

    overlap, _ = quad_vec(lambda r: r * r * np.outer(g(r), g(r)), 0, cutoff)
    np.testing.assert_allclose(overlap, np.eye(count), atol=1e-7)
    # the first is a sum of j_0 at its first two zeros
    first = [spherical_jn(0, k * np.pi * 2.5 / cutoff) for k in (1, 2)]
    ratio = g(2.5)[0] / sum(first)
    assert ratio == pytest.approx(g(4.0)[0] / sum(spherical_jn(0, k * np.pi * 4.0 / cutoff) for k in (1, 2)))
    r = torch.tensor([cutoff], dtype=torch.float64, requires_grad=True)
    for k in range(count):  # value, slope and curvature vanish
        value = radial(r, cutoff, count)[k].sum()
        (slope,) = torch.autograd.grad(value, r, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, r)
        assert max(abs(float(x.detach())) for x in (value, slope, curvature)) < 1e-8


def test_mixed_radial_functions_are_sums_of_the_basis():
    plain, mixed = ACE(["Li", "P", "S"], **SMALL), ACE(["Li", "P", "S"], **SMALL)
    with torch.no_grad():
        mixed.mixing.mul_(2)
    atoms = cluster()
    for f, a, b in zip(plain.products.functions, functions(plain, atoms)[0], functions(mixed, atoms)[0], strict=True):
        close(b, a * (1 if f.order == 1 else 2**f.order), "identity, float64")


def test_chunks_change_nothing(monkeypatch):
    potential = ACE.variants()["finnis-sinclair core"].eval()
    graph = potential.collate([potential.graph(a) for a in (of_family("amorphous"), lithium(), sulphide(), Atoms("S"))])
    whole = potential(graph)
    monkeypatch.setattr("finetune.backbones.ace.CHUNK", 3)
    parts = potential(graph)
    close(parts.energy, whole.energy, "identity, float64")
    close(parts.forces, whole.forces, "identity, float64")


@pytest.mark.parametrize("pair", ["LiLi", "LiS", "PS", "SS"])
def test_core_repulsion_keeps_atoms_apart(pair):
    """Below the inner distance the energy of a dimer rises to that of screened nuclei, whatever the coefficients."""
    potential = ACE(["Li", "P", "S"], core={}).eval()
    with torch.no_grad():
        potential.coefficients.normal_(std=1e-2, generator=torch.Generator().manual_seed(1))
    radii = covalent_radii[Atoms(pair).numbers]
    inner = potential.core.fraction * radii.sum()
    distances = np.linspace(0.5, inner - potential.core.width, 20)
    dimers = [Atoms(pair, [[0, 0, 0], [0, 0, d]]) for d in distances]
    predicted = potential(potential.collate([potential.graph(a) for a in dimers]))
    forces = predicted.forces.view(-1, 2, 3)[:, 1, 2].numpy()
    assert (np.diff(predicted.energy.numpy()) < 0).all()
    assert (forces > 0).all()
    a, b = (int(z) for z in Atoms(pair).numbers)
    screened = [zbl(a, b, d) for d in distances]
    ratio = predicted.energy.numpy() / screened
    assert ((ratio > 0.4) & (ratio < 2)).all()


def test_embedding_is_a_power_far_out_and_smooth_at_zero():
    rho = torch.tensor([-1e-7, 0.0, 1e-7, 50.0], dtype=torch.float64, requires_grad=True)
    values = embedded(rho, 0.5)
    (slopes,) = torch.autograd.grad(values.sum(), rho)
    values = values.detach()
    assert values[1] == 0
    close(slopes[:3], slopes[1].expand(3), "finite difference")
    assert slopes[1] > 0.5
    assert float(values[3]) == pytest.approx(50**0.5)
    assert torch.equal(embedded(rho, 1.0), rho)


def zbl(a: int, b: int, r: float) -> float:
    """Universal repulsion of screened nuclei in eV (Ziegler, Biersack, Littmark 1985)."""
    x = r * (a**0.23 + b**0.23) / 0.46850
    terms = [(0.18175, 3.1998), (0.50986, 0.94229), (0.28022, 0.4029), (0.02817, 0.20162)]
    return a * b * 14.399645 / r * sum(c * np.exp(-d * x) for c, d in terms)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"elements": ["Li", "Xx"]}, "element 'Xx' is not known"),
        ({"elements": ["Li", "Li"]}, "name each element once"),
        ({"nmax": [3, 2], "lmax": [0]}, "one number for each order"),
        ({"nmax": [3] * 5, "lmax": [0] * 5}, "1 to 4 orders"),
        ({"nmax": [2, 3], "lmax": [0, 1]}, "order 1"),
        ({"radial": "bessle"}, "bessel"),
        ({"exponents": [0.5]}, "first must be 1"),
        ({"exponents": [1.0, 0.0]}, "above 0"),
        ({"elements": ["X"]}, "is not known"),
        ({"dtype": "float16"}, "unknown dtype"),
        ({"core": {"fractoin": 0.7}}, "fraction"),
        ({"core": {"width": 3.0}}, "less than"),
        ({"lmax": [0, 12, 2, 0]}, "up to 5"),
        ({"decay": 0.0}, "decay"),
        ({"cutoff": float("nan")}, "cutoff"),
        ({"functions": 0}, "1 or more"),
        ({"core": {"fraction": -1.0}}, "above 0"),
    ],
)
def test_settings_that_make_no_basis_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        ACE(**{"elements": ["Li"], **options})
