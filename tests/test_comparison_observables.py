"""Every observable on a potential whose answer is known in closed form."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from pymatgen.core import Composition
from pymatgen.io.ase import AseAtomsAdaptor

from finetune.comparison import (
    Compression,
    Cost,
    Distributions,
    Elasticity,
    Energies,
    EquationOfState,
    Errors,
    Forgetting,
    Labels,
    PairCurves,
    Phonons,
    Stability,
    Tolerance,
    Transport,
)
from finetune.comparison.crystals import Spectrum, frequency_scale, heat_capacity
from finetune.comparison.figures import Figure, Measured
from finetune.comparison.labelled import from_interface
from finetune.comparison.pairs import minima
from finetune.comparison.states import State, reaction
from finetune.comparison.transport import activation
from finetune.comparison.verdicts import Verdict, judge
from finetune.errors import InputError

from .pairwise import ByFormula, Pairs, lennard_jones, morse
from .structures import ROOT

EPSILON, SIGMA = 0.2, 2.5
NEAREST = 1.0902 * SIGMA  # of fcc Lennard-Jones, infinite range (Ashcroft and Mermin, ch. 20)
BULK_GPa = 75.2 * EPSILON / SIGMA**3 / units.GPa


def fcc(scale=1.0, cubic=False) -> Atoms:
    return bulk("Cu", "fcc", a=scale * NEAREST * np.sqrt(2), cubic=cubic)


def write(path: Path, frames: list[Atoms], group="Cu", family="crystal") -> list[str]:
    for atoms in frames:
        atoms.info = {"group": group, "family": family} | atoms.info
    ase.io.write(path, frames, format="extxyz")
    return [str(path)]


def volumes(count=7, width=0.06) -> list[Atoms]:
    return [fcc(x ** (1 / 3)) for x in np.linspace(1 - width, 1 + width, count)]


def labelled(frames: list[Atoms], calculator: Calculator) -> list[Atoms]:
    for atoms in frames:
        own = atoms.copy()
        own.calc = calculator
        atoms.info["REF_energy"] = own.get_potential_energy()
        atoms.arrays["REF_forces"] = own.get_forces()
        atoms.info["REF_stress"] = own.get_stress()
    return frames


def rattled(count=4) -> list[Atoms]:
    frames = [fcc(cubic=True) for _ in range(count)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    return frames


def figure(measured, kind, subject=""):
    found = [f for f in measured.figures if f.kind == kind and (f.subject == subject or not subject)]
    assert found, f"no {kind} of {subject or 'the whole'}: {[f.name for f in measured.figures]}"
    return found[0].value


def test_the_equation_of_state_of_lennard_jones_is_that_of_the_textbook(tmp_path):
    files = write(tmp_path / "v.extxyz", volumes())
    measured = EquationOfState(files=files).measure(lennard_jones(EPSILON, SIGMA, 6 * SIGMA), tmp_path)
    assert figure(measured, "V0") == pytest.approx(NEAREST**3 / np.sqrt(2), rel=0.005)
    assert figure(measured, "B0") == pytest.approx(BULK_GPa, rel=0.02)
    assert figure(measured, "B0'") == pytest.approx(8.0, abs=0.5)  # (12 + 6) / 3 + 2


def test_two_curves_that_differ_by_a_constant_are_the_same_and_delta_is_their_rms(tmp_path):
    files = write(tmp_path / "v.extxyz", volumes())
    eos = EquationOfState(files=files)
    soft, stiff = (
        eos.measure(ByFormula({"Cu": level}, stiffness, NEAREST**3 / np.sqrt(2)), tmp_path)
        for level, stiffness in ((-3.0, 1.0), (-5.0, 2.0))
    )
    x = np.linspace(0.94, 1.06, 7) - 1
    assert figure(soft, "V0") == pytest.approx(NEAREST**3 / np.sqrt(2), rel=1e-4)
    delta = eos.against(stiff, soft)[0]
    assert delta.value == pytest.approx(1000 * np.sqrt((x**4).mean()), rel=0.02)
    assert eos.against(soft, soft)[0].value == 0.0


def test_too_few_volumes_give_no_fit_and_say_so(tmp_path):
    files = write(tmp_path / "v.extxyz", volumes(4))
    measured = EquationOfState(files=files).measure(lennard_jones(EPSILON, SIGMA, 3 * SIGMA), tmp_path)
    assert np.isnan(figure(measured, "V0"))
    assert measured.notes == ["Cu: 4 volumes, and a fit takes 5"]


def test_a_phase_without_a_minimum_says_where_it_was_looked_for_and_its_curve_is_judged_still(tmp_path):
    files = write(tmp_path / "v.extxyz", volumes())
    eos, own = EquationOfState(files=files), lennard_jones(EPSILON, SIGMA, 3 * SIGMA)
    reference, squeezed = eos.measure(own, tmp_path), lennard_jones(EPSILON, 0.8 * SIGMA, 3 * SIGMA)
    measured = eos.measure(squeezed, tmp_path)
    lowest, highest = measured.curves[0].x[0], measured.curves[0].x[-1]
    assert f"no minimum in {lowest:.1f} to {highest:.1f} Å³/atom, lowest at {lowest:.1f}" in measured.notes[0]
    judged = judge([*measured.figures, *eos.against(measured, reference)], reference, eos.limits(), eos.strict)
    verdict = eos.verdict(measured, judged)
    assert verdict.word == "beyond"
    assert re.fullmatch(r"\d+\.\d×, 1 without a minimum", verdict.brief)
    assert "Δ" in verdict.detail


def phases(tmp_path: Path) -> list[str]:
    frames = []
    for name, formula in {"Li": "Li", "P": "P", "S": "S", "Li2S": "Li2S", "Li3P": "Li3P", "Li3PS4": "Li3PS4"}.items():
        for scale in np.linspace(0.97, 1.03, 5):
            n = len(Atoms(formula))
            place = np.linspace(0, 1, n, endpoint=False)[:, None] * [1, 1, 1]
            atoms = Atoms(formula, scaled_positions=place, cell=np.eye(3) * scale * (10.0 * n) ** (1 / 3), pbc=True)
            frames.append(atoms)
            atoms.info = {"group": name, "family": "eos"}
    frames += [Atoms(symbol, info={"group": f"atom {symbol}", "family": "atom"}) for symbol in ("Li", "P", "S")]
    return write(tmp_path / "phases.extxyz", frames)


LEVELS = {"Li": -2.0, "P": -5.0, "S": -4.0, "Li2S": -4.0, "Li3P": -3.5, "Li3PS4": -4.0}


def test_reaction_formation_and_hull_energies_follow_from_the_energies_of_phases(tmp_path):
    observable = Energies(files=phases(tmp_path), reactions=["Li3PS4 + Li -> Li2S + Li3P"])
    measured = observable.measure(ByFormula(LEVELS, 0.5, 10.0), tmp_path)
    assert measured.figures[0].subject == "Li3PS4 + 8 Li -> 4 Li2S + Li3P"  # 16 atoms
    reaction = (12 * -4.0 + 4 * -3.5 - (8 * -4.0 + 8 * -2.0)) / 16
    assert figure(measured, "reaction energy") == pytest.approx(1000 * reaction, abs=1)
    assert figure(measured, "formation energy", "Li2S") == pytest.approx(1000 * (-4.0 + (2 * 2.0 + 4.0) / 3), abs=1)
    assert figure(measured, "energy above the hull", "Li2S") == pytest.approx(0.0, abs=1e-6)
    ends = (3 * 2.0 + 5.0 + 4 * 4.0) / 8
    apart = (-4.0 * 3 * 1.5 - 5.0 - 4.0 * 2.5) / 8  # 1.5 Li2S + P + 2.5 S, lower than Li3P + 4 S
    assert figure(measured, "formation energy", "Li3PS4") == pytest.approx(1000 * (-4.0 + ends), abs=1)
    assert figure(measured, "energy above the hull", "Li3PS4") == pytest.approx(1000 * (-4.0 - apart), abs=1)
    assert -4.0 - apart > 0.1


def test_polymorphs_and_one_sided_reactions_are_what_they_are(tmp_path):
    found = {
        name: State(Composition(formula), np.zeros(1), np.zeros(1), level, 10.0, 1.0, 4.0)
        for name, formula, level in (
            ("a", "Li3PS4", -4.4),
            ("b", "Li3PS4", -4.5),
            ("Li", "Li", -2.0),
            ("Li2S", "Li2S", -4.0),
        )
    }
    words, energy = reaction("a -> b", found)
    assert words == "a -> b"
    assert energy == pytest.approx(-0.1)
    with pytest.raises(InputError, match="balanced"):
        reaction("Li2S + Li -> a", found)


def test_cohesive_energy_is_that_of_free_atoms_minus_that_of_the_phase(tmp_path):
    files = phases(tmp_path)
    measured = Energies(files=files).measure(ByFormula(LEVELS, 0.5, 10.0), tmp_path)
    assert figure(measured, "cohesive energy", "Li2S") == pytest.approx(1000 * ((-4.0 - 4.0) / 3 + 4.0), abs=1)


@pytest.mark.parametrize("text", ["Li3PS4", "Li -> ", "Li3PS4 -> Li2S"])
def test_what_is_no_reaction_is_refused(text, tmp_path):
    with pytest.raises(InputError, match=r"no reaction|cannot be balanced"):
        Energies(files=phases(tmp_path), reactions=[text]).measure(ByFormula(LEVELS), tmp_path)


def test_minimum_and_depth_of_a_morse_pair_are_its_parameters(tmp_path):
    measured = PairCurves(elements=["Li"], longest=11.0).measure(morse(0.9, 1.4, 2.7), tmp_path)
    assert figure(measured, "distance of the minimum", "Li-Li") == pytest.approx(2.7, abs=0.005)
    assert figure(measured, "depth", "Li-Li") == pytest.approx(0.9, abs=0.002)
    assert figure(measured, "spurious minima", "Li-Li") == 0
    wave = np.exp(-1.4 * (0.8 - 2.7))
    assert figure(measured, "repulsion at the shortest", "Li-Li") == pytest.approx(0.9 * (wave**2 - 2 * wave), rel=1e-3)


def test_minima_are_counted_and_ripples_are_not():
    r = np.linspace(0.8, 6.0, 2000)
    well = (r - 2.5) ** 2
    assert minima(well) == [int(np.argmin(well))]
    assert len(minima(well + 0.002 * np.sin(40 * r))) == 1
    assert len(minima(well - 3.0 * np.exp(-((r - 4.5) ** 2) / 0.1))) == 2
    assert minima(-1 / r) == [0]  # falls into contact
    assert minima(1 / r) == []  # repels everywhere


def test_a_potential_that_falls_at_short_distance_has_holes_and_lennard_jones_has_none(tmp_path):
    files = write(tmp_path / "c.extxyz", rattled())
    well = lennard_jones(EPSILON, SIGMA, 3 * SIGMA)
    whole = Compression(files=files, most=4, pressure_GPa=300.0).measure(well, tmp_path)
    assert figure(whole, "share with a hole") == 0

    def energy(r):
        return well.energy(r) - 400 * np.maximum(2.3 - r, 0) ** 2

    core = Pairs(energy, lambda r: 1e4 * (energy(r + 5e-5) - energy(r - 5e-5)), well.cutoff)
    broken = Compression(files=files, most=4, pressure_GPa=300.0).measure(core, tmp_path)
    assert figure(broken, "share with a hole") == 100
    assert len(broken.curves) == 4


def test_few_structures_or_short_runs_pass_no_verdict_and_many_tell_their_interval(tmp_path):
    well = lennard_jones(EPSILON, SIGMA, 6.0)
    words = []
    for count, ps in ((4, 0.2), (5, 0.2), (5, 0.02)):
        files = write(tmp_path / f"c{count}.extxyz", [fcc(cubic=True) for _ in range(count)])
        holes = Compression(files=files, pressure_GPa=1.0)
        found = holes.measure(well, tmp_path)
        words.append(holes.verdict(found, judge(found.figures, None, holes.limits(), holes.strict)))
        runs = Stability(structures=files, temperatures_K=(30.0,), ps=ps)
        found = runs.measure(well, tmp_path / f"{count}-{ps}")
        words.append(runs.verdict(found, judge(found.figures, None, runs.limits(), runs.strict)))
    assert [verdict.word for verdict in words] == ["told", "told", "within", "within", "within", "told"]
    assert words[0].brief == "none of 4: too few for a verdict"
    assert words[1] == Verdict(
        "told", "too short for a verdict", "4 runs of 0.2 ps, none fails; a verdict needs 5 runs of 0.2 ps; 30 K"
    )
    assert words[2] == Verdict("within", "none of 5 has a hole", "0 to 52 % (95 %)")  # 1 - 0.025**(1/5)
    assert words[3] == Verdict("within", "none of 5 runs of 0.2 ps fails", "30 K; survival 48 to 100 % (95 %)")
    assert words[5].brief == "too short for a verdict"


def test_one_failure_among_many_fails_whatever_its_interval(tmp_path):
    starts = [fcc(cubic=True) for _ in range(8)]
    starts[3].positions[0] += 0.7 * (starts[3].positions[1] - starts[3].positions[0])  # two atoms nearly on each other
    files = write(tmp_path / "c.extxyz", starts)
    runs = Stability(structures=files, temperatures_K=(30.0,), ps=0.2, most=8)
    found = runs.measure(lennard_jones(EPSILON, SIGMA, 6.0), tmp_path / "runs")
    verdict = runs.verdict(found, judge(found.figures, None, runs.limits(), runs.strict))
    assert (verdict.word, verdict.brief) == ("beyond", "1 of 8 runs of 0.2 ps fails")
    share = Figure("", "share with a hole", 10.0, "%", 0.25, 44.5)
    holes = Compression(files=files)
    assert judge([share], None, holes.limits(), holes.strict)[0].word == "beyond"


def test_a_dip_behind_a_wall_that_nothing_climbs_is_told_and_one_within_reach_fails(tmp_path):
    well = morse(0.9, 1.4, 2.7)

    def energy(r, wall):
        dip = 0.5 * wall * np.exp(-(((r - 1.0) / 0.1) ** 2))  # at 1 Å, half as deep as the wall is high
        return np.where(r < 1.5, wall - dip, np.minimum(wall, well.energy(r)))

    for wall, fails in ((2.0, 1), (40.0, 0)):
        curves = PairCurves(elements=["Li"])
        measured = curves.measure(Pairs(lambda r, w=wall: energy(r, w), well.slope, 12.0), tmp_path)
        assert figure(measured, "spurious minima", "Li-Li") == fails
        assert figure(measured, "dips out of reach", "Li-Li") == 1 - fails
        text = f"Li-Li: spurious minimum at 1.00 Å, +{wall / 2:.2g} eV, behind a wall of {wall:.2g} eV"
        assert measured.notes == [text + ("" if fails else ", out of reach")]
        verdict = curves.verdict(measured, judge(measured.figures, None, curves.limits(), curves.strict))
        assert (verdict.word, verdict.brief) == (("beyond", "1 fails") if fails else ("within", "passes"))


def test_a_hole_at_contact_or_no_numbers_are_no_good_pair_curve(tmp_path):
    well = morse(0.9, 1.4, 2.7)

    def energy(r):
        return well.energy(r) - 400 * np.maximum(1.4 - r, 0) ** 2

    pit = PairCurves(elements=["Li"], reach_eV=30.0).measure(Pairs(energy, well.slope, 12.0), tmp_path)
    assert figure(pit, "falls at contact", "Li-Li") == 1
    assert figure(pit, "spurious minima", "Li-Li") == 0
    collapse = PairCurves(elements=["Li"]).measure(Pairs(lambda r: -30 / r**2, well.slope, 12.0), tmp_path)
    assert figure(collapse, "falls at contact", "Li-Li") == 1
    assert np.isnan(figure(collapse, "depth", "Li-Li"))
    nothing = PairCurves(elements=["Li"]).measure(Pairs(lambda r: r * np.nan, well.slope, 12.0), tmp_path)
    assert all(np.isnan(f.value) for f in nothing.figures if f.kind != "repulsion at the shortest")


def test_recorded_pairs_take_the_lowest_spin_state_and_skip_what_is_not_known(tmp_path):
    frames = []
    for r in np.linspace(1.0, 6.0, 40):
        for level in (0.0, 0.3):
            atoms = Atoms("Li2", [(0, 0, 0), (r, 0, 0)], cell=[18.5, 12.0, 12.0], pbc=True)
            own = Atoms("Li2", [(0, 0, 0), (r, 0, 0)])
            own.calc = morse(0.9, 1.4, 2.7)
            atoms.info = {"REF_energy": own.get_potential_energy() + level, "group": "pair", "family": "dimer"}
            frames.append(atoms)
    files = write(tmp_path / "pairs.extxyz", frames)
    observable = PairCurves(elements=["Li"])
    measured = observable.recorded(Labels(files).calculator(), tmp_path)
    wave = np.exp(-1.4 * (6.0 - 2.7))
    assert figure(measured, "depth", "Li-Li") == pytest.approx(0.9 * (1 + wave**2 - 2 * wave), abs=0.005)
    assert figure(measured, "distance of the minimum", "Li-Li") == pytest.approx(2.7, abs=0.02)
    files = write(tmp_path / "short.extxyz", frames[:40])
    assert not observable.recorded(Labels(files).calculator(), tmp_path).figures  # no zero of energy
    whole = write(tmp_path / "both.extxyz", frames)
    both = PairCurves(elements=["Li", "S"]).recorded(Labels([*whole, *files]).calculator(), tmp_path)
    assert both.notes == ["Li-S: no pair is recorded", "S-S: no pair is recorded"]
    near = [atoms for atoms in frames if atoms.get_distance(0, 1) < 2.6]
    for atoms in near:
        atoms.symbols = ["Li", "S"]
    short = write(tmp_path / "near.extxyz", near)
    both = PairCurves(elements=["Li", "S"]).recorded(Labels([*whole, *short]).calculator(), tmp_path)
    assert "Li-S: 13 distances from 1.00 to 2.54 Å are recorded" in both.notes[0]


def test_recorded_pairs_end_at_the_separate_atoms_and_far_from_their_images(tmp_path):
    frames = []
    for r in np.linspace(1.0, 6.0, 41):  # the images of a pair count only where they are near
        atoms = Atoms("LiS", [(0, 0, 0), (r, 0, 0)], cell=[12.0] * 3, pbc=True)
        energy = (morse_energy(r) if r <= 4.0 else 99.0) - 7.0
        atoms.info = {"REF_energy": energy, "group": "pair", "family": "dimer"}
        frames.append(atoms)
    for symbol, energy in (("Li", -3.0), ("S", -4.0)):
        alone = Atoms(symbol, cell=[12.0, 12.1, 12.2], pbc=True)
        alone.info = {"REF_energy": energy, "group": "atom", "family": "atom"}
        frames.append(alone)
    crystal = Atoms("Li", cell=[3.0] * 3, pbc=True)  # no atom alone
    crystal.info = {"REF_energy": -9.0, "group": "crystal", "family": "crystal"}
    files = write(tmp_path / "pairs.extxyz", [*frames, crystal])
    measured = PairCurves(elements=["Li", "S"]).recorded(Labels(files).calculator(), tmp_path)
    assert figure(measured, "depth", "Li-S") == pytest.approx(0.9, abs=0.005)
    [curve] = measured.curves
    assert max(curve.x) == pytest.approx(4.0)


def morse_energy(r):
    """Depth 0.9 eV at 2.7 Å."""
    return 0.9 * ((1 - np.exp(-1.4 * (r - 2.7))) ** 2 - 1)


def test_intervals_of_both_sides_are_the_floor_where_they_exceed_the_uncertainty():
    limits = {"coordination": Tolerance(0.1)}
    reference = Measured([Figure("Li-S", "coordination", 4.0, "", 3.6, 4.4)])
    ratio = judge([Figure("Li-S", "coordination", 5.0, "", 4.7, 5.3)], reference, limits)[0].ratio
    assert ratio == pytest.approx(1.0 / np.sqrt(0.4**2 + 0.3**2))


def test_a_potential_that_never_resists_is_a_hole(tmp_path):
    files = write(tmp_path / "c.extxyz", rattled())
    nothing = Pairs(np.zeros_like, np.zeros_like, 3.0)
    assert figure(Compression(files=files, most=2).measure(nothing, tmp_path), "share with a hole") == 100


def test_errors_of_scaled_forces_are_known(tmp_path):
    frames = labelled(rattled(), lennard_jones(EPSILON, SIGMA, 2 * SIGMA))
    files = write(tmp_path / "l.extxyz", frames)
    spoiled = lennard_jones(EPSILON, SIGMA, 2 * SIGMA)
    spoiled.scale = 0.8
    measured = Errors(files=files, metal="Li").measure(spoiled, tmp_path)
    forces = np.concatenate([atoms.arrays["REF_forces"] for atoms in frames])
    assert figure(measured, "forces slope") == pytest.approx(0.8)
    assert figure(measured, "forces MAE") == pytest.approx(1000 * 0.2 * np.abs(forces).mean())
    assert figure(measured, "energy MAE") == pytest.approx(0.0, abs=1e-4)  # digits of the file
    assert "4 frames also to the other frames of their own group" in measured.notes[1]  # one group: the file
    parts = [f for f in measured.figures if f.kind == "forces MAE of a part"]
    assert parts
    assert parts[-1].value > parts[0].value  # a share of a larger force is more


def test_errors_have_intervals_over_groups_and_a_shift_fitted_to_other_frames(tmp_path):
    frames = labelled(rattled(), lennard_jones(EPSILON, SIGMA, 2 * SIGMA))
    for k, atoms in enumerate(frames):
        atoms.info["group"] = str(k)
    files = write(tmp_path / "l.extxyz", frames)
    elsewhere = labelled(rattled(), lennard_jones(EPSILON, SIGMA, 2 * SIGMA))
    for atoms in elsewhere:
        atoms.info["REF_energy"] += 0.1 * len(atoms)  # another energy zero
    others = write(tmp_path / "references.extxyz", elsewhere)
    spoiled = lennard_jones(EPSILON, SIGMA, 2 * SIGMA)
    measured = Errors(files=files).measure(spoiled, tmp_path)
    force = measured.by_name()["forces MAE"]
    assert force.low <= force.value <= force.high
    assert force.floor == 0.0  # the same errors in every run
    assert figure(measured, "energy MAE") == pytest.approx(0.0, abs=1e-4)
    shifted = Errors(files=files, references=others).measure(spoiled, tmp_path)
    assert figure(shifted, "energy MAE") == pytest.approx(100.0, abs=1e-3)
    assert "references.extxyz" in shifted.notes[1]


def test_elements_of_crystals_with_dft_values_are_those_of_their_structures(tmp_path):
    """The file is JSON of another kind, which no reader of structures may be asked to read."""
    file = str(ROOT / "data/structures/matcalc_pbe_elasticity_phonon_LiPS.json")
    for kind in (Elasticity, Phonons):
        assert kind(file=file).numbers() == {3, 15, 16}
        assert kind(file=file, phases=["mp-1153"]).numbers() == {3, 16}


def test_distance_from_the_interface_of_two_slabs_is_their_geometry():
    metal = [(0, 0, z) for z in (0.0, 3.0, 6.0)]
    other = [(0, 0, 11.0), (0, 0, 14.0), (2.0, 0, 14.0)]  # the last is lithium bound to phosphorus
    atoms = Atoms("Li3P2Li", [*metal, *other], cell=[30, 30, 40], pbc=True)
    distances = from_interface(atoms, "Li", 3.2)
    np.testing.assert_allclose(distances, [11.0, 8.0, 5.0, 5.0, 8.0, np.hypot(2.0, 8.0)])
    assert np.isnan(from_interface(atoms[:3], "Li", 3.2)).all()


def test_an_ideal_gas_has_no_structure(rng):
    frames = [Atoms("Ar200", rng.random((200, 3)) * 20, cell=[20] * 3, pbc=True) for _ in range(40)]
    measured = Distributions(structures=["none"], settle_ps=0.0, angle=(), cutoff=6.0, bins=30).count([frames], 500.0)
    g = np.array(measured.curves[0].y)
    np.testing.assert_allclose(g[10:], 1.0, atol=0.06)


def test_a_cold_crystal_has_twelve_neighbours_at_its_distance_and_a_tetrahedron_its_angle(rng):
    frames = [fcc(cubic=True).repeat(3) for _ in range(8)]
    for atoms in frames:
        atoms.positions += 0.03 * rng.standard_normal((len(atoms), 3))
    measured = Distributions(structures=["none"], angle=()).count([frames], 1000.0)
    assert figure(measured, "first peak") == pytest.approx(NEAREST, abs=0.006)  # bins are 0.05 Å wide
    assert figure(measured, "coordination") == pytest.approx(12, abs=0.1)
    tetrahedra = []
    for _ in range(8):
        atoms = molecule("CH4")
        atoms.symbols[:] = ["P", "S", "S", "S", "S"]
        atoms.set_cell([15] * 3)
        atoms.pbc = True
        tetrahedra.append(atoms)
    curves = Distributions(structures=["none"], bond=1.5, angle=("S", "P", "S")).count([tetrahedra], 1000.0).curves
    angle = next(curve for curve in curves if curve.panel == "angle S-P-S")
    assert angle.x[int(np.argmax(angle.y))] == pytest.approx(109.47, abs=1.6)
    assert sum(angle.y) * 3 == pytest.approx(1.0)  # per degree


def test_neighbours_within_the_shell_of_dft_are_counted_for_both(rng):
    close = fcc(cubic=True).repeat(3)
    side = (close.get_volume() / len(close)) ** (
        1 / 3
    )  # simple cubic of the same density: 6 neighbours at 0.89, not 12
    cubic = Atoms("Cu", cell=[side] * 3, pbc=True).repeat(5)
    cubic.symbols[:] = close.symbols[0]
    frames = {}
    for crystal in (close, cubic):
        copies = [crystal.copy() for _ in range(8)]
        for atoms in copies:
            atoms.positions += 0.02 * rng.standard_normal((len(atoms), 3))
        frames[len(crystal)] = copies
    observable = Distributions(structures=["none"], angle=())
    twelve, six = (observable.count([copies], 1000.0) for copies in frames.values())
    kind = "coordination, difference from DFT"
    assert [f.value for f in observable.against(twelve, twelve) if f.kind == kind] == [0]
    assert [f.value for f in observable.against(six, twelve) if f.kind == kind] == [pytest.approx(-6, abs=0.15)]
    assert [f.value for f in observable.against(twelve, six) if f.kind == kind] == [pytest.approx(6, abs=0.3)]
    frames = [Atoms("Cu99", rng.random((99, 3)) * 9, cell=[9] * 3, pbc=True) for _ in range(8)]
    gas = observable.count([frames], 1000.0)
    assert not [f for f in observable.against(twelve, gas) if f.kind == kind]  # it has no shell


def test_distributions_of_dynamics_differ_by_nothing_from_themselves_and_by_something_from_a_hotter_run(tmp_path):
    files = write(tmp_path / "s.extxyz", [fcc(cubic=True).repeat(2)])
    settings = {"structures": files, "ps": 0.4, "settle_ps": 0.1, "angle": (), "timestep_fs": 2.0, "cutoff": 4.5}
    cold, again, hot = (
        Distributions(temperature_K=t, **settings).measure(lennard_jones(EPSILON, SIGMA, 6.0), tmp_path / name)
        for t, name in ((50.0, "a"), (50.0, "b"), (400.0, "c"))
    )
    observable = Distributions(**settings)
    assert cold.json() == again.json()
    assert observable.against(again, cold)[0].value == 0
    assert observable.against(hot, cold)[0].value > 0.3


def reference_file(path: Path, kind: str, **values: float) -> str:
    structure = AseAtomsAdaptor.get_structure(fcc()).as_dict()
    path.write_text(json.dumps({kind: [{"mp_id": "lj", "formula": "Cu", "structure": structure, **values}]}))
    return str(path)


def test_the_bulk_modulus_from_strains_is_that_of_the_equation_of_state(tmp_path):
    file = reference_file(tmp_path / "e.json", "elasticity", bulk_modulus_vrh=1.0, shear_modulus_vrh=1.0)
    measured = Elasticity(file=file).measure(lennard_jones(EPSILON, SIGMA, 6 * SIGMA), tmp_path)
    assert figure(measured, "bulk modulus") == pytest.approx(BULK_GPa, rel=0.03)
    shear = figure(measured, "shear modulus")
    assert 0.4 * BULK_GPa < shear < 0.65 * BULK_GPa  # central forces: C12 = C44, so G is about half of B


def test_a_soft_crystal_has_the_heat_capacity_of_dulong_and_petit(tmp_path):
    file = reference_file(tmp_path / "p.json", "phonon", heat_capacity=1.0)
    measured = Phonons(file=file, min_length=7.0).measure(lennard_jones(0.02, SIGMA, 2.5 * SIGMA), tmp_path)
    assert figure(measured, "heat capacity at 300 K") == pytest.approx(3 * 8.314462, rel=0.01)
    assert figure(measured, "imaginary modes") == 0


def light(path: Path, **values: float) -> str:
    """As `reference_file`, of lithium, whose modes at 300 K are quantum mechanical in a stiff crystal."""
    file = Path(reference_file(path, "phonon", **values))
    file.write_text(file.read_text().replace('"Cu"', '"Li"'))
    return str(file)


@pytest.fixture(scope="module")
def spectra(tmp_path_factory):
    """Phonons of a stiff crystal, and of the same with force constants at 85 %: frequencies 7.8 % lower."""
    place = tmp_path_factory.mktemp("phonons")
    observable = Phonons(file=light(place / "p.json", heat_capacity=1.0), min_length=7.0, fmax=1e-4)
    stiff = observable.measure(lennard_jones(0.1, SIGMA, 2.5 * SIGMA), place)
    soft = observable.measure(lennard_jones(0.85 * 0.1, SIGMA, 2.5 * SIGMA), place)
    return observable, stiff, soft


SOFTENING = np.sqrt(0.85)


def verdicts(observable, measured, reference) -> dict[str, float]:
    figures = measured.figures + observable.against(measured, reference)
    return {one.figure.kind: one.ratio for one in judge(figures, reference, observable.limits())}


def test_frequencies_that_are_soft_by_8_percent_are_not_within_the_uncertainty_of_a_calculator(spectra):
    observable, stiff, soft = spectra
    for kind in ("mean frequency", "highest frequency"):
        assert figure(soft, kind) == pytest.approx(SOFTENING * figure(stiff, kind), rel=3e-3)
    found = verdicts(observable, soft, stiff)
    for kind in ("mean frequency", "highest frequency", "distance of density of states"):
        assert found[kind] == pytest.approx((1 - SOFTENING) / 0.03, rel=0.05)
    assert "frequencies by heat capacity" not in found
    same = verdicts(observable, stiff, stiff)
    assert max(ratio for ratio in same.values() if not np.isnan(ratio)) == 0


def test_a_heat_capacity_alone_shows_the_softening_of_all_frequencies(spectra):
    observable, stiff, soft = spectra
    dft = Measured([f for f in stiff.figures if f.kind == "heat capacity at 300 K"])
    share = figure(stiff, "heat capacity at 300 K") / (3 * 8.314462)
    assert 0.6 < share < 0.9  # quantum, as Li2S and Li3P are
    (scale,) = observable.against(soft, dft)
    assert scale.kind == "frequencies by heat capacity"
    assert scale.value == pytest.approx(SOFTENING, rel=4e-3)
    assert scale.low < scale.value < scale.high < 1
    assert verdicts(observable, soft, dft)[scale.kind] > 1.5
    (own,) = observable.against(stiff, dft)
    assert own.value == pytest.approx(1, abs=1e-6)
    assert verdicts(observable, stiff, dft)[own.kind] < 0.01


def test_a_classical_heat_capacity_decides_nothing_and_a_note_says_so(tmp_path):
    file = reference_file(tmp_path / "p.json", "phonon", heat_capacity=1.0)
    observable = Phonons(file=file, min_length=7.0)
    measured = observable.measure(lennard_jones(0.02, SIGMA, 2.5 * SIGMA), tmp_path)
    dft = Measured([f for f in measured.figures if f.kind == "heat capacity at 300 K"])
    assert observable.against(measured, dft) == []
    assert "cannot show a softening" in measured.notes[0]
    low = Measured([Figure("Cu (lj)", "heat capacity at 300 K", 0.5 * 3 * 8.314462)])
    (scale,) = observable.against(measured, low)  # but frequencies that are too low by far are seen
    assert scale.value < 0.3


@pytest.mark.filterwarnings("ignore:.*acoustic mode.* at Gamma")
def test_the_irreducible_mesh_with_its_weights_gives_the_spectrum_of_the_full_mesh(spectra, tmp_path):
    from matcalc import PhononCalc
    from pymatgen.core import Structure

    observable = spectra[0]
    entry = observable.entries()[0]
    calculator = lennard_jones(0.1, SIGMA, 2.5 * SIGMA)
    found = PhononCalc(calculator, fmax=0.01, min_length=7.0, write_phonon=False).calc(
        Structure.from_dict(entry["structure"])
    )
    phonon = found["phonon"]
    for mesh in ([7, 7, 7], [9, 9, 9]):
        phonon.run_mesh(mesh, is_mesh_symmetry=True)
        few = Spectrum.from_mesh(phonon.mesh.frequencies, phonon.mesh.weights)
        naive = phonon.mesh.frequencies.mean()
        count = len(phonon.mesh.weights)
        phonon.run_mesh(mesh, is_mesh_symmetry=False)
        full = Spectrum.from_mesh(phonon.mesh.frequencies, phonon.mesh.weights)
        assert len(phonon.mesh.weights) > 5 * count
        assert few.mean() == pytest.approx(full.mean(), rel=1e-6)
        assert few.mean() == pytest.approx(phonon.mesh.frequencies.mean(), rel=1e-4)
        assert abs(naive / full.mean() - 1) > 0.01  # without weights it is another
        shares = np.linspace(0.02, 0.98, 49) + 1e-4  # between the modes of 343 or 729 points
        np.testing.assert_allclose(few.quantiles(shares), full.quantiles(shares), rtol=1e-4)


def test_imaginary_modes_count_with_the_weight_of_their_point():
    spectrum = Spectrum.from_mesh(np.array([[-1.0, 2.0], [4.0, 6.0]]), np.array([1, 3]))
    assert spectrum.imaginary() == pytest.approx(1 / 8)
    assert spectrum.mean() == pytest.approx((0 + 2 + 3 * (4 + 6)) / 8)
    assert spectrum.highest() == 6
    np.testing.assert_allclose(spectrum.weights, np.array([1, 1, 3, 3]) / 8)


def test_the_heat_capacity_of_an_einstein_solid_gives_its_frequency_back():
    x = 6.0 * 1e12 * 6.62607015e-34 / (1.380649e-23 * 300)  # 6 THz
    share = x**2 * np.exp(x) / (np.exp(x) - 1) ** 2
    assert heat_capacity(np.full(5, 6.0)) == pytest.approx(share, rel=1e-9)
    assert frequency_scale(np.full(5, 5.0), share) == pytest.approx(6 / 5, rel=1e-6)
    assert frequency_scale(np.full(5, 5.0), 1.01) == pytest.approx(1 / 4)
    assert frequency_scale(np.full(5, 5.0), 0.0) == pytest.approx(4)


def test_stable_dynamics_survive_and_unstable_ones_are_told_with_their_guard(tmp_path):
    files = write(tmp_path / "s.extxyz", [fcc(cubic=True)])
    settings = {"structures": files, "temperatures_K": (300.0,), "ps": 0.2, "most": 1}
    good = Stability(**settings).measure(lennard_jones(EPSILON, SIGMA, 6.0), tmp_path / "good")
    assert figure(good, "survived") == 100
    assert list(good.curves[0].y) == [100, 100]
    well = lennard_jones(EPSILON, SIGMA, 6.0)
    attractive = Pairs(lambda r: -30 / r**2, lambda r: 60 / r**3, well.cutoff)
    bad = Stability(**settings).measure(attractive, tmp_path / "bad")
    assert figure(bad, "survived") == 0
    assert figure(bad, "first failure") < 0.2
    assert bad.notes


def test_the_activation_energy_is_that_of_arrhenius(rng):
    draws = {t: np.exp(-0.3 / (units.kB * t)) * (1 + 0.02 * rng.standard_normal(2000)) for t in (500.0, 700.0, 900.0)}
    found = activation(draws, seed=0)[0]
    assert found.value == pytest.approx(0.3, abs=0.003)
    assert found.low < 0.3 < found.high
    assert activation({500.0: draws[500.0]}, seed=0) == []


def test_transport_runs_and_its_crystal_does_not_diffuse(tmp_path):
    files = write(tmp_path / "s.extxyz", [fcc(cubic=True)])
    observable = Transport(
        structures=files, element="Cu", temperatures_K=(90.0, 100.0), ps=0.4, settle_ps=0.1, every_fs=4.0
    )
    measured = observable.measure(lennard_jones(EPSILON, SIGMA, 6.0), tmp_path)
    assert [f.kind for f in measured.figures] == ["diffusivity"] * 2  # no activation energy
    for one in measured.figures:
        assert np.isnan(one.value)
        assert one.low == 0
        assert 0 < one.high < 3  # three hops that four atoms could have had in 0.4 ps
    assert "no diffusivity, below" in measured.notes[0]
    assert "0 of 2 temperatures have a diffusivity and 3 are needed" in measured.notes[-1]
    assert Measured.from_json(json.loads(json.dumps(measured.json()))).figures[0].high == measured.figures[0].high


def test_drift_of_scaled_forces_is_the_share_of_the_forces(tmp_path):
    frames = labelled(rattled(), lennard_jones(EPSILON, SIGMA, 2 * SIGMA))
    files = write(tmp_path / "probe.extxyz", frames)
    moved = lennard_jones(EPSILON, SIGMA, 2 * SIGMA)
    moved.scale = 1.1
    forces = np.concatenate([atoms.arrays["REF_forces"] for atoms in frames])
    measured = Forgetting(files=files).measure(moved, tmp_path)
    assert figure(measured, "drift of forces") == pytest.approx(100 * np.abs(forces).mean())
    same = Forgetting(files=files).measure(lennard_jones(EPSILON, SIGMA, 2 * SIGMA), tmp_path)
    assert figure(same, "drift of forces") < 1e-3  # digits of the file


class Slow(ByFormula):
    def calculate(self, *arguments, **more) -> None:
        time.sleep(0.02)
        super().calculate(*arguments, **more)


def test_cost_is_the_time_that_a_step_takes(tmp_path):
    files = write(tmp_path / "s.extxyz", [fcc(cubic=True)])
    observable = Cost(structures=files, repeats=[(1, 1, 1), (2, 1, 1)])
    measured = observable.measure(Slow({"Cu": -1.0}), tmp_path)
    times = {f.subject: f.value for f in measured.figures if f.kind == "time per atom and step"}
    assert 20 / 4 <= times["4 atoms"] < 60 / 4  # a busy machine takes longer
    assert 20 / 8 <= times["8 atoms"] < 60 / 8
