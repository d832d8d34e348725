from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii
from ase.neighborlist import neighbor_list

from finetune.cli.sample import run
from finetune.errors import InputError
from finetune.sampling import Coherent, Context, Face, Limits, Matching
from finetune.sampling.slabs import touching

LITHIUM, CHLORIDE = 3.44, 5.1  # lattice constants of bcc Li and rocksalt LiCl, Å
LOOSE = Matching(area_A2=60.0, area_ratio=0.2, length=0.1, angle=0.1, strain=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crystals")
    ase.io.write(path / "Li.cif", bulk("Li", "bcc", a=LITHIUM))
    ase.io.write(path / "LiCl.cif", bulk("LiCl", "rocksalt", a=CHLORIDE))
    return path


def pair(folder: Path, **options: object) -> Coherent:
    """Lithium, two layers, on two of its chloride."""
    lower, upper = Face("LiCl", layers=(2, 2)), Face("Li", layers=(2, 2))
    return Coherent(folder, **({"lower": lower, "upper": upper, "matching": LOOSE, "atoms": (1, 100)} | options))


def made(sampler: Coherent, frames: int, seed: int = 0) -> list[Atoms]:
    return list(islice(sampler.frames((), Context(np.random.default_rng(seed))), frames))


def halves(atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """Heights of the atoms of lithium chloride and of lithium metal, from the lowest atom of the salt; with vacuum."""
    z = np.sort(atoms.positions[:, 2])
    salt = 2 * int((atoms.numbers == 17).sum())
    return z[:salt], z[salt:]


@pytest.mark.parametrize("strained", ["upper", "lower", "both"])
def test_both_crystals_share_one_lattice_and_keep_their_volumes(folder: Path, strained: str) -> None:
    for atoms in made(pair(folder, strained=strained, vacuum_A=8.0), 4):
        salt, metal = halves(atoms)
        area = np.linalg.norm(np.cross(*atoms.cell.array[:2]))
        spacing = np.diff(np.unique(metal.round(6))).mean()
        per_layer = len(metal) / len(np.unique(metal.round(6)))
        assert area * spacing / per_layer == pytest.approx(LITHIUM**3 / 2, rel=1e-4)
        spacing = np.diff(np.unique(salt.round(6))).mean()
        per_layer = len(salt) / len(np.unique(salt.round(6)))
        assert area * spacing / per_layer == pytest.approx(CHLORIDE**3 / 8, rel=1e-4)


def test_only_the_strained_crystal_is_strained(folder: Path) -> None:
    for atoms in made(pair(folder, vacuum_A=8.0), 4):
        i, _, distances = neighbor_list("ijd", atoms, {("Li", "Cl"): 1.1 * CHLORIDE / 2})
        inside = distances[np.isin(i, np.flatnonzero(atoms.numbers == 17))]
        own = inside[np.abs(inside - CHLORIDE / 2) < 1e-4]
        assert len(own) >= 4 * (atoms.numbers == 17).sum()  # in the plane and below
        assert 0 < atoms.info["strain"] <= LOOSE.strain
        assert "LiCl (1 0 0)" in atoms.info["made_by"]
        assert "strain +0.0 % +0.0 %" in atoms.info["made_by"]


@pytest.mark.parametrize("strained", ["upper", "lower", "both"])
def test_the_one_that_is_not_strained_keeps_its_area(folder: Path, strained: str) -> None:
    """A layer of bcc (100) has a² per atom, one of rocksalt (100) a²/4."""
    for atoms in made(pair(folder, strained=strained, vacuum_A=8.0), 4):
        area = np.linalg.norm(np.cross(*atoms.cell.array[:2]))
        salt, metal = (area * len(np.unique(z.round(6))) / len(z) for z in halves(atoms))
        kept = {"upper": salt / (CHLORIDE**2 / 4), "lower": metal / LITHIUM**2}
        if strained in kept:
            assert kept.pop(strained) == pytest.approx(1, abs=1e-4)
        assert all(abs(ratio - 1) > 1e-3 for ratio in kept.values())


def test_the_strain_told_is_that_of_the_area(folder: Path) -> None:
    """bcc (100) has an area of a² per atom of a layer: the product of the principal stretches."""
    for atoms in made(pair(folder, vacuum_A=8.0), 4):
        _, metal = halves(atoms)
        area = np.linalg.norm(np.cross(*atoms.cell.array[:2]))
        percent = atoms.info["made_by"].rsplit("strain ", 1)[1].split(",")[0].replace("%", "").split()
        stretches = 1 + np.array(percent, float) / 100
        assert stretches.prod() == pytest.approx(area / (len(metal) / 4 * LITHIUM**2), rel=3e-3)


def test_the_gap_is_the_distance_of_the_closest_atoms_across_both_faces(folder: Path) -> None:
    for atoms in made(pair(folder, gap_A=(1.5, 1.5)), 6):
        assert neighbor_list("d", atoms, 2.0).min() == pytest.approx(1.5, abs=1e-6)
    sandwich, vacuum = (made(pair(folder, gap_A=(2.0, 2.0), vacuum_A=v), 1)[0] for v in (0.0, 9.0))
    assert 6.0 < vacuum.cell[2, 2] - sandwich.cell[2, 2] < 9.0


@pytest.mark.parametrize(("below", "above"), [("Be", "Be"), ("Cs", "Cs"), ("Be", "Cs"), ("Li", "S")])
def test_the_gap_follows_the_radii_of_the_facing_atoms(below: str, above: str) -> None:
    """An atom in the hollow of four others, at a distance d of each: the height is sqrt(d² - a²/2)."""
    edge, gap = 1.4, 1.1
    lower = Atoms(below, cell=[edge, edge, 0])
    upper = Atoms(above, [[edge / 2, edge / 2, 0]], cell=[edge, edge, 0])
    distance = gap * (covalent_radii[atomic_numbers[below]] + covalent_radii[atomic_numbers[above]])
    assert touching(lower, upper, gap, by_radii=True) == pytest.approx(np.sqrt(distance**2 - edge**2 / 2))
    assert touching(lower, upper, 2.1, by_radii=False) == pytest.approx(np.sqrt(2.1**2 - edge**2 / 2))


def test_faces_of_new_interfaces_are_no_closer_than_atoms_in_crystals(folder: Path) -> None:
    """By default no contact is below 0.9 of the radii; the crystals' own shortest one, Li-Cl, is at 1.11."""
    for atoms in made(pair(folder), 6):
        i, j, distances = neighbor_list("ijd", atoms, 4.0)
        ratio = distances / (covalent_radii[atoms.numbers[i]] + covalent_radii[atoms.numbers[j]])
        assert ratio.min() > 0.9 - 1e-6


def test_sizes_are_kept_and_repeats_multiply_them(folder: Path) -> None:
    thick = {"lower": Face("LiCl", layers=(1, 3)), "upper": Face("Li", layers=(1, 4))}
    sizes = [len(atoms) for atoms in made(pair(folder, atoms=(20, 60), **thick), 12)]
    assert min(sizes) >= 20
    assert max(sizes) <= 60
    assert len(set(sizes)) > 3
    once, repeated = (made(pair(folder, repeat=repeat), 1)[0] for repeat in ((1, 1), (3, 2)))
    assert len(repeated) == 6 * len(once)
    assert repeated.cell.lengths() == pytest.approx(once.cell.lengths() * [3, 2, 1])


def test_interfaces_follow_from_the_seed(folder: Path) -> None:
    first, again, other = (made(pair(folder), 3, seed) for seed in (1, 1, 2))
    assert all(a == b and a.info == b.info for a, b in zip(first, again, strict=True))
    assert any(a != b for a, b in zip(first, other, strict=True))
    groups = [atoms.info["group"] for atoms in first]
    assert all(group.startswith("ClLi|Li-") for group in groups)
    assert len(set(groups)) == len({atoms.info["made_by"] for atoms in first})  # every interface is one of its own


def test_molecules_are_not_cut(root: Path) -> None:
    """Every phosphorus of Li7P3S11 keeps its four sulfurs, wherever the crystal is cut."""
    electrolyte = Face("Li7P3S11_mp-641703-GGA.cif", ((0, 1, 0), (1, 0, 0), (0, 0, 1)), conventional=False)
    loose = Matching(area_A2=170.0, area_ratio=0.3, length=0.15, angle=0.15, strain=0.2)
    lithium = Face("Li_mp-135-r2SCAN.cif")
    folder = root / "data/structures/materials_project"
    for whole, coordination in (((("P", "S"),), {4}), ((), {1, 2, 3, 4})):
        lower = Face(electrolyte.crystal, electrolyte.miller, (1, 1), None, False, whole)
        seen: set[int] = set()
        for atoms in made(Coherent(folder, lower, lithium, loose, vacuum_A=6.0, atoms=(40, 120)), 8):
            i = neighbor_list("i", atoms, {("P", "S"): 2.5})
            seen |= set(np.bincount(i, minlength=len(atoms))[atoms.numbers == 15].tolist())
            assert (atoms.numbers == 16).sum() * 3 == (atoms.numbers == 15).sum() * 11
        assert 4 in seen
        assert seen == coordination if whole else seen - {4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matching": Matching(area_A2=20.0, strain=1e-4)}, "no interface of LiCl and Li"),
        ({"upper": Face("Na")}, "no ordered crystal of Na .* Li"),
        ({"upper": Face("Na.cif")}, "there is no file"),
        ({"upper": Face("Li", termination=9)}, "no termination 9; take one of 0 to"),
    ],
)
def test_what_cannot_be_joined_is_told(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(pair(folder, **options), 1)


def test_frames_without_a_calculator_carry_no_labels(folder: Path, tmp_path: Path) -> None:
    faces = {
        "lower": {"crystal": "LiCl"},
        "upper": {"crystal": "Li"},
        "matching": {"area_A2": 60, "length": 0.1, "angle": 0.1, "area_ratio": 0.2},
    }
    sampler = {"class_path": "finetune.sampling.Coherent", "init_args": {"folder": str(folder), **faces}}
    recipe = {"family": "interface", "frames": 2, "samplers": [sampler]}
    config, output = tmp_path / "config.json", tmp_path / "out.extxyz"
    config.write_text(json.dumps({"calculator": None, "recipes": [recipe]}))
    run(["sample", "-c", str(config), "--output", str(output)])
    for atoms in ase.io.read(output, ":"):
        assert atoms.calc is None
        assert set(atoms.info) == {"family", "group", "made_by", "strain"}
        assert set(atoms.arrays) == {"numbers", "positions"}


def test_frames_for_dft_carry_no_labels_of_the_model_that_ran_them(folder: Path, tmp_path: Path) -> None:
    melt = {"class_path": "finetune.sampling.Melt", "init_args": {"steps": 2, "every": 1, "volume": [1.0, 1.0]}}
    crystals = {"class_path": "finetune.sampling.Crystals", "init_args": {"folder": str(folder)}}
    config, output = tmp_path / "config.json", tmp_path / "out.extxyz"
    recipe = {"family": "melt", "frames": 2, "samplers": [crystals, melt]}
    model = "ase.calculators.lj.LennardJones"
    config.write_text(json.dumps({"calculator": model, "labels": False, "recipes": [recipe]}))
    run(["sample", "-c", str(config), "--output", str(output)])
    for atoms in ase.io.read(output, ":"):
        assert not [key for key in (*atoms.info, *atoms.arrays) if key.startswith("REF_")]


def test_a_recipe_may_have_limits_of_its_own() -> None:
    alone = Atoms("Li", cell=[12, 12, 12], pbc=True)
    assert Limits().reason(alone) == "too sparse"
    assert Limits(sparsest_A3=np.inf).reason(alone) == "isolated atom"
    assert Limits(sparsest_A3=np.inf, isolated_A=None).reason(alone) is None
    close = Atoms("Li2", [[0, 0, 0], [1.0, 0, 0]])
    assert Limits(sparsest_A3=np.inf, isolated_A=None).reason(close) == "atoms too close"
