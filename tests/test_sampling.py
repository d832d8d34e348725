from __future__ import annotations

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from finetune.cli.sample import run
from finetune.errors import InputError
from finetune.sampling import (
    Context,
    Crystals,
    Limits,
    Melt,
    Packed,
    Rattled,
    Recipe,
    Relaxed,
    Sampler,
    Stacked,
    Strained,
    Substituted,
    Swapped,
)
from finetune.sampling.core import collect
from finetune.sampling.crystals import primitive_cells


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three crystals as CIF files: lithium, its sulfide and a larger cell of it."""
    path = tmp_path_factory.mktemp("crystals")
    ase.io.write(path / "Li.cif", bulk("Li", "bcc", a=3.44))
    sulfide = bulk("SLi2", "fluorite", a=5.72)
    ase.io.write(path / "Li2S.cif", sulfide)
    ase.io.write(path / "LiCl.cif", bulk("LiCl", "rocksalt", a=5.1, cubic=True))
    return path


def context(seed: int = 0) -> Context:
    return Context(np.random.default_rng(seed), LennardJones(sigma=2.0, rc=5.0, epsilon=0.1))


def chain(samplers: list[Sampler], frames: int, seed: int = 0) -> list[Atoms]:
    stream: object = ()
    shared = context(seed)
    for sampler in samplers:
        stream = sampler.frames(stream, shared)  # type: ignore[arg-type]
    return list(islice(stream, frames))  # type: ignore[call-overload]


def chains(folder: Path) -> dict[str, list[Sampler]]:
    return {
        "crystal": [Crystals(folder), Substituted(), Swapped(), Strained(), Rattled()],
        "melt": [Crystals(folder, min_atoms=6), Relaxed(steps=2), Melt(steps=6, every=3)],
        "amorphous": [Packed((("Li", "Li7P3S11"),), atoms=(6, 10))],
        "interface": [Stacked(folder, upper=("Li2S",), mismatch=0.15, max_atoms=60)],
    }


@pytest.mark.parametrize("family", ["crystal", "melt", "amorphous", "interface"])
def test_frames_follow_from_the_seed(folder: Path, family: str) -> None:
    samplers = chains(folder)[family]
    first, again, other = (chain(samplers, 4, seed) for seed in (1, 1, 2))
    assert all(a == b and a.info == b.info for a, b in zip(first, again, strict=True))
    assert any(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("family", ["crystal", "melt", "amorphous", "interface"])
def test_every_frame_says_its_group_and_how_it_was_made(folder: Path, family: str) -> None:
    for atoms in chain(chains(folder)[family], 4):
        assert atoms.info["group"]
        steps = atoms.info["made_by"].split(" > ")
        assert len(steps) >= (5 if family == "crystal" else 1)


def test_relatives_share_a_group_and_other_compositions_do_not(folder: Path) -> None:
    frames = chain([Crystals(folder), Substituted(mixed=0.0), Strained(copies=2), Rattled()], 60)
    assert all(a.info["group"] == b.info["group"] for a, b in zip(frames[::2], frames[1::2], strict=True))
    formula = {atoms.info["group"]: atoms.symbols.formula.reduce()[0].format("hill") for atoms in frames}
    assert all(group == reduced for group, reduced in formula.items())
    assert len(formula) > 5


def test_tiny_cells_are_repeated_and_large_ones_left_out(folder: Path) -> None:
    sizes = {atoms.info["group"]: len(atoms) for atoms in chain([Crystals(folder, min_atoms=4, max_atoms=3)], 40)}
    assert sizes == {"Li": 4, "Li2S": 6, "ClLi": 4}


def test_unknown_formula_names_the_known_ones(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no crystal of Na2S .* Li2S"):
        chain([Crystals(folder, formulas=("Na2S",))], 1)


def test_sites_shared_by_elements_are_not_taken_for_a_crystal(tmp_path: Path) -> None:
    disordered = bulk("LiCl", "rocksalt", a=5.1)
    disordered.info["occupancy"] = {"0": {"Li": 0.5, "Na": 0.5}, "1": {"Cl": 1.0}}
    disordered.set_array("spacegroup_kinds", np.array([0, 1]))
    ase.io.write(tmp_path / "x.cif", disordered)
    with pytest.raises(InputError, match="no ordered crystal"):
        chain([Crystals(tmp_path)], 1)


@pytest.mark.parametrize(("element", "lattice_A"), [("Na", 6.54), ("Li", 5.72)])
def test_substitution_scales_the_cell_to_about_the_known_lattice_constant(
    folder: Path, element: str, lattice_A: float
) -> None:
    only = Substituted(alike=(("Li", element), ("S",)), mixed=0.0)
    frames = chain([Crystals(folder, min_atoms=3, formulas=("Li2S",)), only], 20)
    volumes = [atoms.get_volume() for atoms in frames if set(atoms.get_chemical_symbols()) == {element, "S"}]
    assert volumes
    assert np.cbrt(4 * np.array(volumes)) == pytest.approx(lattice_A, rel=0.04)


def test_swaps_keep_the_composition_and_change_the_order(folder: Path) -> None:
    source = Crystals(folder, formulas=("LiCl",))
    before, after = chain([source], 10), chain([source, Swapped()], 10)
    assert {atoms.get_chemical_formula() for atoms in before} == {atoms.get_chemical_formula() for atoms in after}
    assert any((a.numbers != before[0].numbers).any() for a in after)


def test_strain_keeps_to_its_volumes_and_is_symmetric(folder: Path) -> None:
    source = Crystals(folder, formulas=("LiCl",))
    parent = chain([source], 1)[0]
    for atoms in chain([source, Strained(strain=0.05, volume=(0.8, 1.3))], 40):
        stretch = np.linalg.solve(parent.cell.array, atoms.cell.array)
        assert stretch == pytest.approx(stretch.T, abs=1e-12)
        assert 0.8 <= np.linalg.det(stretch) <= 1.3
        assert np.abs(stretch - np.cbrt(np.linalg.det(stretch)) * np.eye(3)).max() < 0.08


def test_rattling_has_the_amplitude_it_tells(folder: Path) -> None:
    source = Crystals(folder, min_atoms=64, formulas=("LiCl",))
    parent = chain([source], 1)[0]
    for atoms in chain([source, Rattled(amplitudes_A=(0.02, 0.2))], 6):
        amplitude = float(atoms.info["made_by"].split("Rattled(")[1].split(" ")[0])
        assert (atoms.positions - parent.positions).std() == pytest.approx(amplitude, rel=0.15)


def test_packed_atoms_keep_their_distance_at_the_filling_asked_for() -> None:
    packed = Packed((("Li", "P", "S"), ("Li2O",)), atoms=(8, 16), filling=(0.2, 0.3), closest=0.8)
    for atoms in chain([packed], 10):
        radii = covalent_radii[atoms.numbers]
        i, j, distances = neighbor_list("ijd", atoms, 4.0)
        assert 8 <= len(atoms) <= 16
        assert (distances >= 0.8 * (radii[i] + radii[j]) - 1e-9).all()
        assert 0.1 < (4 / 3 * np.pi * radii**3).sum() / atoms.get_volume() <= 0.3


def test_packing_grows_the_cell_where_the_atoms_do_not_fit() -> None:
    packed = chain([Packed((("Li",),), atoms=(8, 8), filling=(0.9, 0.9), closest=0.9)], 1)[0]
    assert (4 / 3 * np.pi * covalent_radii[3] ** 3) * 8 / packed.get_volume() < 0.9
    assert Limits().reason(packed) is None


def test_stacked_crystals_keep_their_volume_and_gain_the_gap(folder: Path) -> None:
    for atoms in chain([Stacked(folder, upper=("Li2S",), mismatch=0.15, gap_A=(1.0, 1.0), max_atoms=60)], 5):
        assert re.fullmatch(r"Li\|Li2S-[0-9a-f]{8}", atoms.info["group"])
        assert len(atoms) <= 60
        sulfur = (atoms.numbers == 16).sum()
        metal = (atoms.numbers == 3).sum() - 2 * sulfur
        crystals = metal * 3.44**3 / 2 + sulfur * 5.72**3 / 4
        area = np.linalg.norm(np.cross(*atoms.cell.array[:2]))
        assert atoms.get_volume() == pytest.approx(crystals + 2 * area, rel=1e-3)


def test_stacks_that_do_not_match_are_told(folder: Path) -> None:
    with pytest.raises(InputError, match="mismatch"):
        chain([Stacked(folder, upper=("LiCl",), mismatch=1e-6, max_atoms=8)], 1)


def test_snapshots_carry_the_results_of_the_dynamics(folder: Path) -> None:
    for atoms in chain([Crystals(folder, min_atoms=6), Melt(steps=6, every=3)], 4):
        fresh = atoms.copy()
        fresh.calc = context().calculator
        assert isinstance(atoms.calc, SinglePointCalculator)
        assert atoms.get_forces() == pytest.approx(fresh.get_forces(), abs=1e-10)
        assert atoms.get_stress() == pytest.approx(fresh.get_stress(), abs=1e-10)


class Thermometer(LennardJones):
    """Lennard-Jones that notes the temperature (K) of what it is asked about."""

    seen: tuple[float, ...] = ()

    def calculate(self, atoms: Atoms | None = None, *args: object) -> None:
        assert atoms is not None
        self.seen += (atoms.get_temperature(),)
        super().calculate(atoms, *args)


def test_melt_thermalizes_at_its_temperature(folder: Path) -> None:
    melt = Melt(temperature_K=(900.0, 900.0), volume=(1.0, 1.0), steps=250, every=250, friction_per_fs=0.05)
    thermometer = Thermometer(sigma=2.0, rc=5.0, epsilon=0.1)
    shared = Context(np.random.default_rng(0), thermometer)
    crystals = Crystals(folder, min_atoms=32, formulas=("LiCl",)).frames((), shared)
    next(melt.frames(crystals, shared))
    assert np.mean(thermometer.seen[100:]) == pytest.approx(900.0, rel=0.1)


def test_melt_without_snapshots_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="lower `every`"):
        chain([Crystals(folder), Melt(steps=5, every=6)], 1)


def test_dynamics_without_a_calculator_is_refused(folder: Path) -> None:
    recipe = Recipe("melt", [Crystals(folder), Melt()], frames=1)
    with pytest.raises(InputError, match="Melt needs a calculator"):
        collect(recipe, Context(np.random.default_rng(0)), 1)


def spoiled(reason: str) -> Atoms:
    """A frame with exactly one thing wrong."""
    atoms = bulk("LiCl", "rocksalt", a=5.1, cubic=True)
    if reason == "atoms too close":
        atoms.positions[0] = atoms.positions[1] + [0.5, 0, 0]
    elif reason == "too dense":
        atoms.set_cell(atoms.cell * 0.55, scale_atoms=True)
    elif reason == "too sparse":
        atoms.set_cell([5.1, 5.1, 100.0])
    elif reason == "isolated atom":
        atoms = Atoms("LiClH", [[0, 0, 0], [2.4, 0, 0], [9, 9, 9]])
    elif reason == "not finite":
        atoms.positions[0, 0] = np.nan
    stress = np.full(6, 0.5 if reason.startswith("tension") else 0.0)
    forces = np.zeros((len(atoms), 3))
    forces[0, 0] = {"force above 30 eV/Å": 31.0}.get(reason, 0.0)
    if reason.startswith(("force", "tension")):
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces, stress=stress)
    return atoms


REASONS = [
    "atoms too close",
    "too dense",
    "too sparse",
    "isolated atom",
    "not finite",
    "force above 30 eV/Å",
    "tension above 0.15 eV/Å³",
]


class Given(Sampler):
    """A source of frames that are there already, over and over."""

    def __init__(self, given: list[Atoms]) -> None:
        self.given = given

    def frames(self, parents: object, context: Context) -> object:  # type: ignore[override]
        while True:
            for atoms in self.given:
                copy = atoms.copy()
                copy.calc = atoms.calc
                yield copy


@pytest.mark.parametrize("reason", [*REASONS, None])
def test_absurd_frames_have_their_reason(reason: str | None) -> None:
    assert Limits().reason(spoiled(reason or "nothing")) == reason


def test_rejected_frames_are_counted_by_reason() -> None:
    given = Given([spoiled(reason) for reason in [*REASONS, "nothing", "too dense"]])
    accepted, rejected = collect(Recipe("spoiled", [given], frames=2), context(), 2)
    assert [atoms.info["family"] for atoms in accepted] == ["spoiled", "spoiled"]
    assert rejected == Counter(dict.fromkeys(REASONS, 2) | {"too dense": 3})


def test_nan_forces_never_pass() -> None:
    atoms = spoiled("nothing")
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.full((len(atoms), 3), np.nan))
    assert Limits().reason(atoms) == "force above 30 eV/Å"


def test_a_recipe_that_only_makes_absurd_frames_ends_and_says_why() -> None:
    with pytest.raises(InputError, match="too dense"):
        collect(Recipe("crushed", [Given([spoiled("too dense")])], frames=1), context(), 1)


def test_absurd_snapshots_end_their_trajectory(folder: Path) -> None:
    gentle = Context(np.random.default_rng(0), LennardJones(sigma=2.0, rc=5.0, epsilon=0.1), Limits(force=1e-6))
    recipe = Recipe("melt", [Crystals(folder, min_atoms=6), Melt(steps=4, every=2)], frames=1)
    reasons = [reason for _, reason in islice(recipe.sample(gentle), 3)]
    assert reasons == ["force above 1e-06 eV/Å"] * 3


def configured(folder: Path, tmp_path: Path, seed: int = 3) -> list[str]:
    config = {
        "seed": seed,
        "calculator": "ase.calculators.lj.LennardJones",
        "recipes": [
            {
                "family": "crystal",
                "frames": 5,
                "chunk": 2,
                "samplers": [
                    {"class_path": "finetune.sampling.Crystals", "init_args": {"folder": str(folder)}},
                    {"class_path": "finetune.sampling.Rattled"},
                ],
            }
        ],
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    return ["sample", "-c", str(path), "--output", str(tmp_path / "out.extxyz")]


def test_a_restart_goes_on_at_the_first_missing_part(folder: Path, tmp_path: Path) -> None:
    run(configured(folder, tmp_path))
    output, parts = tmp_path / "out.extxyz", tmp_path / "out.extxyz.parts"
    whole = output.read_text()
    first, second = sorted(parts.glob("*.extxyz"))[:2]
    kept = first.stat().st_mtime_ns
    second.unlink()
    output.unlink()
    run(configured(folder, tmp_path))
    assert output.read_text() == whole
    assert first.stat().st_mtime_ns == kept
    assert not list(tmp_path.rglob("*.partial"))


def test_parts_of_other_settings_are_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    run(configured(folder, tmp_path))
    with pytest.raises(InputError, match="other settings"):
        run(configured(folder, tmp_path, seed=4))


def test_the_smoke_config_gives_labelled_frames_of_every_family(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    output = tmp_path / "smoke.extxyz"
    config = str(root / "configs/sample/smoke.yaml")
    run(["sample", "-c", config, "--calculator", "ase.calculators.lj.LennardJones", "--output", str(output)])
    frames = ase.io.read(output, ":")
    assert {atoms.info["family"] for atoms in frames} == {"crystal", "melt", "amorphous", "interface"}
    for atoms in frames:
        assert atoms.calc is None
        assert np.isfinite(atoms.info["REF_energy"])
        assert atoms.arrays["REF_forces"].shape == (len(atoms), 3)
        assert atoms.info["REF_stress"] == pytest.approx(atoms.info["REF_stress"].T)
        assert atoms.info["group"]
        assert atoms.info["made_by"]
    assert f"{len(frames)} frames" in capsys.readouterr().out


def test_crystals_have_cells_with_angles_near_90_degrees():
    cells = primitive_cells(Path(__file__).parents[1] / "data/structures", 8, 24)
    angles = np.array([crystal.cell.angles() for crystals in cells.values() for crystal in crystals])
    assert angles.min() > 59
    assert angles.max() < 121
