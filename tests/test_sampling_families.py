"""Defects, equations of state, pairs, mixing lines, glasses, densities and diversity."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import ase.io
import jsonargparse
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.neighborlist import neighbor_list
from ase.units import GPa

from finetune.cli.sample import sample
from finetune.errors import InputError
from finetune.sampling import (
    Coherent,
    Context,
    Crystals,
    Densified,
    Dimers,
    Dynamics,
    EquationOfState,
    Face,
    Farthest,
    Files,
    Interstitials,
    IsolatedAtoms,
    Limits,
    MeltQuench,
    MixingLine,
    Packed,
    Rattled,
    Recipe,
    Sampler,
    Strained,
    Swapped,
    Vacancies,
)
from finetune.sampling.core import collect
from finetune.sampling.defects import voids
from finetune.sampling.diversity import descriptor, farthest, loaded

from .commands import command

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs/sample").glob("*.yaml"))
HOURS = ("pretrain", "glasses")  # 3,510 frames in half an hour; 32 anneals of 20 ps in six hours
MINUTES = [path for path in CONFIGS if path.stem not in HOURS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("crystals")
    ase.io.write(path / "Li.cif", bulk("Li", "bcc", a=3.44))
    ase.io.write(path / "Li2S.cif", bulk("SLi2", "fluorite", a=5.72))
    return path


class Given(Sampler):
    """One structure over and over."""

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        while True:
            copy = self.atoms.copy()
            copy.info = {"group": "given", "made_by": "given"}
            yield copy


def argon() -> Atoms:
    """An fcc crystal for the Lennard-Jones calculator below, at about its equilibrium."""
    return bulk("Ar", "fcc", a=5.26, cubic=True)


def calculator() -> LennardJones:
    return LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0, smooth=True)


def chain(samplers: list[Sampler], frames: int, seed: int = 0) -> list[Atoms]:
    shared = Context(np.random.default_rng(seed), calculator())
    stream: Iterable[Atoms] = ()
    for sampler in samplers:
        stream = sampler.frames(stream, shared)
    return list(islice(stream, frames))


def sulfide() -> Atoms:
    return bulk("SLi2", "fluorite", a=5.72, cubic=True)


CHAINS: dict[str, list[Sampler]] = {
    "vacancies": [Given(sulfide()), Vacancies()],
    "interstitials": [Given(sulfide()), Interstitials()],
    "equation of state": [Given(sulfide()), EquationOfState(3)],
    "mixing line": [MixingLine(("Li2S",), amounts=(0, 3), density_g_cm3=(1.0, 1.5))],
    "dynamics": [Given(argon()), Dynamics((50.0, 60.0), skip=2, steps=4, every=2)],
    "glass": [Given(argon()), MeltQuench((100.0, 150.0), 20.0, 2, 2, 4, 2)],
    "density": [Given(argon()), Densified((20.0, 40.0), steps=3, bulk_modulus_GPa=2.0)],
}


@pytest.mark.parametrize("name", CHAINS)
def test_frames_follow_from_the_seed_and_say_how_they_were_made(name: str) -> None:
    first, again, other = (chain(CHAINS[name], 4, seed) for seed in (1, 1, 2))
    assert all(a == b and a.info == b.info for a, b in zip(first, again, strict=True))
    assert any(a != b for a, b in zip(first, other, strict=True)) == (name != "equation of state")
    for atoms in first:
        assert atoms.info["group"]
        assert type(CHAINS[name][-1]).__name__ in atoms.info["made_by"]


def test_vacancies_take_only_the_element_asked_for() -> None:
    counts = {a.get_chemical_formula() for a in chain([Given(sulfide()), Vacancies((1, 2), ("Li",))], 20)}
    assert counts == {"Li7S4", "Li6S4"}
    assert chain([Given(sulfide()), Vacancies((1, 2), ("Na",))], 1)[0].get_chemical_formula() == "Li8S4"
    assert len(chain([Given(bulk("Li")), Vacancies()], 1)[0]) == 1


def test_the_largest_void_of_the_antifluorite_is_its_empty_octahedron() -> None:
    """The octahedral sites, at the middle of the cube and of its edges, are empty: a half lattice constant from S."""
    doubled = 2 * voids(sulfide(), "Li")[0] / 5.72
    assert doubled == pytest.approx(np.rint(doubled), abs=1e-3)
    assert np.rint(doubled).sum() % 2 == 1


def test_interstitials_keep_the_atoms_and_do_not_come_too_close() -> None:
    for atoms in chain([Given(sulfide()), Interstitials((1, 2), ("Li",))], 10):
        assert atoms.get_chemical_formula() in {"Li9S4", "Li10S4"}
        assert atoms.positions[:12] == pytest.approx(sulfide().positions)
        assert Limits().reason(atoms) is None


def test_an_equation_of_state_has_its_volumes_and_keeps_the_shape() -> None:
    frames = chain([Given(sulfide()), EquationOfState(7, (0.85, 1.15))], 14)
    ratios = [atoms.get_volume() / sulfide().get_volume() for atoms in frames]
    assert ratios == pytest.approx(np.tile(np.linspace(0.85, 1.15, 7), 2))
    assert all(a.get_scaled_positions() == pytest.approx(sulfide().get_scaled_positions()) for a in frames)
    with pytest.raises(InputError, match="two volumes or more"):
        chain([Given(sulfide()), EquationOfState(1)], 1)


def test_dimers_go_through_every_pair_at_its_distances() -> None:
    frames = chain([Dimers(("Li", "P", "S"), points=5, closest=0.7, farthest_A=5.5)], 99)
    assert len(frames) == 6 * 5
    assert len({atoms.info["group"] for atoms in frames}) == 6
    distances = [atoms.get_distance(0, 1, mic=True) for atoms in frames[:5]]
    assert (distances[0], distances[-1]) == pytest.approx((0.7 * 2 * 1.28, 5.5))
    assert np.diff(np.log(distances)) == pytest.approx(np.diff(np.log(distances))[0])
    assert not any(atoms.pbc.any() for atoms in chain([Dimers(("Li",), periodic=False)], 3))
    with pytest.raises(InputError, match="raise `far_box_A` from 17 to 18"):
        chain([Dimers(("Li",), far_box_A=17.0)], 1)


def test_images_of_a_pair_stay_twice_as_far_as_its_atoms() -> None:
    for atoms in chain([Dimers(("Li", "S"), antiparallel=True)], 99):
        distance = atoms.get_distance(0, 1)
        assert min(atoms.cell.lengths()[0] - distance, *atoms.cell.lengths()[1:]) >= 2 * distance - 1e-9


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Strained(volume=(1.2, 0.8)), "`volume` .* are the smallest and the largest"),
        (lambda: Strained(copies=0), "`copies` of Strained is 0; give 1 or more"),
        (lambda: Rattled(amplitudes_A=()), "`amplitudes_A` of Rattled is empty"),
        (lambda: Rattled(amplitudes_A=(0.1, -0.1)), "`amplitudes_A` of Rattled is .*; give 0 or more"),
        (lambda: Swapped(pairs=0), "`pairs` of Swapped is 0; give 1 or more"),
        (lambda: Vacancies(number=(-2, -1)), "`number` of Vacancies is .*; give 0 or more"),
        (lambda: Packed(mixtures=()), "`mixtures` of Packed is empty"),
        (lambda: Packed(mixtures=(("Li",),), filling=(0.4, 0.2)), "`filling` .* are the smallest and the largest"),
        (lambda: MixingLine(amounts=()), "`amounts` of MixingLine is empty"),
        (lambda: MixingLine(density_g_cm3=(2.0, 1.0)), "`density_g_cm3` .* are the smallest and the largest"),
        (lambda: Coherent(Path(), gap_A=(2.4, 1.6)), "`gap_A` .* are the smallest and the largest"),
        (lambda: Face("Li", layers=(0, 0)), "`layers` of Face is .*; give 1 or more"),
        (lambda: Dynamics(temperature_K=(900.0, 300.0)), "`temperature_K` .* are the smallest and the largest"),
        (lambda: MeltQuench(melt_K=(1500.0, 1000.0)), "`melt_K` .* are the smallest and the largest"),
        (lambda: Recipe("x", [], 5, chunk=0), "`chunk` of Recipe is 0; give 1 or more"),
        (lambda: Recipe("x", [], 0), "`frames` of Recipe is 0; give 1 or more"),
    ],
)
def test_settings_that_make_no_frames_are_refused(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make()


def test_pairs_and_atoms_pass_limits_of_their_own() -> None:
    allowed = Limits(closest=0.5, sparsest_A3=np.inf, isolated_A=None)
    context = Context(np.random.default_rng(0))
    pairs = Recipe("dimer", [Dimers(("Li", "S"), points=4)], 12, limits=allowed)
    assert [atoms.info["family"] for atoms in collect(pairs, context, 12)[0]] == ["dimer"] * 12
    atoms = Recipe("atom", [IsolatedAtoms(("Li", "P", "S"))], 3, limits=allowed)
    assert ["".join(a.symbols) for a in collect(atoms, context, 3)[0]] == ["Li", "P", "S"]
    with pytest.raises(InputError, match=r"too sparse|ended after"):
        collect(Recipe("atom", [IsolatedAtoms(("Li",))], 1), context, 1)


def test_a_list_in_chunks_would_begin_anew_and_is_refused(folder: Path) -> None:
    recipe = Recipe("dimer", [Dimers(("Li", "S"), points=4)], 12, chunk=6)
    with pytest.raises(InputError, match="set `chunk` to 12"):
        collect(recipe, Context(np.random.default_rng(0)), 6)


def test_files_come_in_order_and_once(folder: Path) -> None:
    frames = chain([Files(folder, ("Li2S.cif", "Li.cif"), min_atoms=2)], 9)
    assert [atoms.get_chemical_formula() for atoms in frames] == ["Li2S", "Li2"]
    with pytest.raises(InputError, match="there is no file"):
        chain([Files(folder, ("Na.cif",))], 1)


def test_compositions_along_the_mixing_line_are_exact() -> None:
    line = MixingLine(("Li7P3S11",), "Li", (0, 2, 6), density_g_cm3=(1.2, 1.8))
    formulas = {atoms.get_chemical_formula() for atoms in chain([line], 20)}
    assert formulas == {"Li7P3S11", "Li9P3S11", "Li13P3S11"}


def test_packed_densities_are_those_asked_for() -> None:
    for atoms in chain([MixingLine(("Li7P3S11",), "Li", (0, 4), density_g_cm3=(1.5, 1.5))], 4):
        assert atoms.get_masses().sum() * 1.66053907 / atoms.get_volume() == pytest.approx(1.5, rel=1e-6)
        assert Limits().reason(atoms) is None


def test_volumes_mix_those_of_the_crystals(folder: Path) -> None:
    line = MixingLine(("Li4S2",), "Li", (5,), folder=folder, swelling=(1.1, 1.1))
    expected = 1.1 * (2 * 5.72**3 / 4 + 5 * 3.44**3 / 2)
    assert [atoms.get_volume() for atoms in chain([line], 3)] == pytest.approx([expected] * 3, rel=1e-4)
    with pytest.raises(InputError, match=r"no crystal of Li3P .* Li2S"):
        chain([MixingLine(("Li3P",), "Li", folder=folder)], 1)
    with pytest.raises(InputError, match="give one of them"):
        chain([MixingLine()], 1)
    with pytest.raises(InputError, match="do not fit"):
        chain([MixingLine(density_g_cm3=(20.0, 20.0))], 1)


def test_dynamics_skips_its_equilibration() -> None:
    steps = [
        a.info["made_by"].split()[-1] for a in chain([CHAINS["dynamics"][0], Dynamics(skip=3, steps=4, every=2)], 2)
    ]
    assert steps == ["5", "7"]


class Thermometer(LennardJones):
    """Lennard-Jones that notes the temperature (K) of what it is asked about."""

    seen: tuple[float, ...] = ()

    def calculate(self, atoms: Atoms | None = None, *args: object) -> None:
        assert atoms is not None
        self.seen += (atoms.get_temperature(),)
        super().calculate(atoms, *args)


def test_a_glass_is_heated_held_and_cooled() -> None:
    quench = MeltQuench((300.0, 300.0), 20.0, heat=40, hold=120, cool=120, timestep_fs=5.0, friction_per_fs=0.05)
    thermometer = Thermometer(sigma=3.4, epsilon=0.0104, rc=8.0, smooth=True)
    context = Context(np.random.default_rng(0), thermometer)
    glass = next(quench.frames(Given(argon() * 2).frames((), context), context))
    melt, end = np.mean(thermometer.seen[80:160]), np.mean(thermometer.seen[-10:])
    assert melt == pytest.approx(300.0, rel=0.15)
    assert end == pytest.approx(20.0, abs=25.0)
    assert glass.get_volume() == pytest.approx((argon() * 2).get_volume())
    assert "momenta" not in glass.arrays
    assert glass.info["temperature_K"] == 20.0
    hot = next(replace(quench, snapshots=2).frames(Given(argon()).frames((), context), context))
    assert hot.info["temperature_K"] == pytest.approx(quench.temperature(160, 300.0), abs=0.1)


def test_the_density_found_is_that_at_the_pressure() -> None:
    """From a crystal stretched by 12 % in volume to within 2 % of where the mean pressure vanishes; less under load."""
    stretched = argon()
    stretched.set_cell(stretched.cell * 1.04, scale_atoms=True)
    found = {}
    for pressure in (0.0, 1.0):
        densify = Densified((5.0, 5.0), pressure, 250, 5.0, bulk_modulus_GPa=3.0)
        found[pressure] = chain([Given(stretched), densify], 1)[0]
        found[pressure].calc = calculator()
    assert -found[0.0].get_stress()[:3].mean() / GPa == pytest.approx(0.0, abs=0.05)
    assert -found[1.0].get_stress()[:3].mean() / GPa == pytest.approx(1.0, abs=0.15)
    assert found[1.0].get_volume() < found[0.0].get_volume() < 0.98 * stretched.get_volume()


def test_farthest_points_spread_more_than_random_ones(rng: np.random.Generator) -> None:
    cloud = rng.normal(size=(200, 3))

    def spread(indices: Iterable[int]) -> float:
        points = cloud[list(indices)]
        return float(min(np.linalg.norm(a - b) for k, a in enumerate(points) for b in points[:k]))

    chosen = farthest(cloud, 8, np.empty((0, 3)))
    assert len(set(chosen)) == 8
    assert spread(chosen) > 1.5 * max(spread(rng.choice(200, 8, replace=False)) for _ in range(20))
    near_taken = farthest(np.array([[0.0], [1.0], [5.0]]), 3, np.array([[5.1]]))
    assert near_taken == [0, 1, 2]
    assert sorted(farthest(np.zeros((3, 2)), 3, np.empty((0, 2)))) == [0, 1, 2]


def test_farthest_frames_are_more_diverse_than_the_first_ones() -> None:
    source = Packed((("Li", "P", "S"),), atoms=(6, 10), filling=(0.2, 0.3))
    kept = chain([source, Farthest("chgnet", keep=2, out_of=6)], 4)
    first = chain([source], 12)
    assert [any(a == b for b in first[:6]) for a in kept] == [True, True, False, False]

    def closest(frames: list[Atoms]) -> float:
        x = np.array([descriptor(loaded("chgnet"), atoms) for atoms in frames])
        return float(min(np.linalg.norm(x[i] - x[j]) for i in range(len(x)) for j in range(i)))

    assert closest(kept) > closest(first[:4])
    with pytest.raises(InputError, match="lower `keep`"):
        chain([source, Farthest("chgnet", keep=3, out_of=2)], 1)


def test_farthest_hands_absurd_frames_on() -> None:
    crushed = bulk("Li", cubic=True)
    crushed.set_cell(crushed.cell * 0.5, scale_atoms=True)
    recipe = Recipe("crushed", [Given(crushed), Farthest("chgnet", 1, 2)], 1)
    with pytest.raises(InputError, match="too dense"):
        collect(recipe, Context(np.random.default_rng(0)), 1)


def test_the_neighbours_of_an_added_atom_are_as_far_as_the_void_is_wide() -> None:
    atoms = chain([Given(sulfide()), Interstitials((1, 1), ("Li",), voids=1)], 1)[0]
    distances = neighbor_list("d", atoms, 2.6)[neighbor_list("i", atoms, 2.6) == 12]
    assert distances.min() == pytest.approx(5.72 * np.sqrt(3) / 4, abs=0.01)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_read_into_typed_samplers(path: Path) -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("-c", action="config")
    parser.add_function_arguments(sample, as_group=False, as_positional=False)
    recipes = parser.instantiate(parser.parse_args(["-c", str(path), "--output", "x.extxyz"])).recipes
    assert recipes
    for sampler in (sampler for recipe in recipes for sampler in recipe.samplers):
        for option in fields(sampler):  # tuples and settings, not lists and dicts, where those are declared
            value = getattr(sampler, option.name)
            assert "dict" in str(option.type) or hash(value) is not None, option.name
        assert isinstance(getattr(sampler, "folder", None), Path | None)


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (lambda: Crystals(ROOT / "data/structures", formulas=("Lix",)), "no chemical formula"),
        (lambda: MixingLine(phases=("Li7p",), folder=ROOT / "data/structures"), "no chemical formula"),
        (lambda: Coherent(ROOT / "data/structures", Face("Zz"), Face("Li")), "no chemical formula"),
        (lambda: Face("Li", miller=((0, 0, 0),)), "Miller indices"),
        (lambda: Packed((("Li",),), atoms=(9, 4)), "smallest and the largest"),
        (lambda: Dimers(elements=("Li", "Qq")), "is not known"),
    ],
)
def test_mistakes_in_the_settings_of_samplers_are_told(sampler, words):
    with pytest.raises(InputError, match=words):
        list(islice(sampler().frames((), Context(np.random.default_rng(0))), 60))


def test_a_file_that_is_no_structure_is_told(tmp_path):
    (tmp_path / "empty.cif").write_text("")
    with pytest.raises(InputError, match=r"empty\.cif"):
        next(Files(tmp_path, ("empty.cif",)).frames((), Context(np.random.default_rng(0))))


def test_free_atoms_and_pairs_carry_their_spins_into_the_file(tmp_path):
    context = Context(np.random.default_rng(0))
    atoms = [next(iter(IsolatedAtoms((symbol,)).frames((), context))) for symbol in ("Li", "P", "S")]
    pair = next(iter(Dimers(("P", "S")).frames((), context)))
    ase.io.write(tmp_path / "a.extxyz", [*atoms, pair], format="extxyz")
    read = ase.io.read(tmp_path / "a.extxyz", ":")
    assert [frame.get_initial_magnetic_moments().tolist() for frame in read] == [[1.0], [3.0], [2.0], [3.0, 3.0]]


@pytest.mark.slow
@pytest.mark.parametrize("path", MINUTES, ids=lambda path: path.stem)
def test_shipped_configs_give_frames_that_the_doctor_accepts(path: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    begin = time.monotonic()
    assert command("sample", "-c", path, "--output", tmp_path / "frames.extxyz") == 0
    assert time.monotonic() - begin < 600
    bare = "labels: false" in path.read_text() or "calculator: null" in path.read_text()
    frames = ase.io.read(tmp_path / "frames.extxyz", ":")
    model = "none" if max(map(len, frames)) > 10_000 else "chgnet"
    assert command("doctor", tmp_path / "frames.extxyz", "--labels", str(not bare).lower(), "--model", model) == 0
