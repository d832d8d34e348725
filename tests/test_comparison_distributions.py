"""Distributions are judged by what two runs of the same potential differ by, and by nothing that is too short."""

from __future__ import annotations

import itertools

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.md.velocitydistribution import thermalize_momenta

from finetune.comparison import Distributions, Labels
from finetune.comparison.distributions import memory, squared_error
from finetune.comparison.verdicts import Verdict, judge

APART_FS, EDGE = 100.0, 5.0  # between frames, and between dimers, Å
SITES = np.array(list(itertools.product(range(2), repeat=3))) * EDGE
OBSERVABLE = Distributions(structures=["none"], cutoff=4.0, bins=80)


def dimers(seed: int, ps: float = 5.0, bond: float = 2.05, width: float = 0.1, slow: float = 0.0) -> list[Atoms]:
    """PS dimers on a lattice whose atoms are Ornstein-Uhlenbeck oscillators, so that the exact g(r) is known.

    Each coordinate has a fast part of standard deviation `width` (Å) that forgets in 0.1 ps and a slow one (0.6 ps).
    """
    rng = np.random.default_rng(seed)
    rest = np.vstack([SITES, SITES + np.array([bond, 0, 0])])
    parts = [(size, np.exp(-APART_FS / 1000 / tau)) for size, tau in ((width, 0.1), (slow, 0.6)) if size]
    moved = [rng.standard_normal(rest.shape) for _ in parts]
    frames = []
    for _ in range(round(1000 * ps / APART_FS)):
        for k, (_, kept) in enumerate(parts):
            moved[k] = kept * moved[k] + np.sqrt(1 - kept**2) * rng.standard_normal(rest.shape)
        places = rest + sum(size * at for (size, _), at in zip(parts, moved, strict=True))
        frames.append(Atoms("P8S8", places, cell=[2 * EDGE] * 3, pbc=True))
    return frames


def measured(seed, **changes):
    return OBSERVABLE.count([dimers(seed, **changes)], APART_FS)


def verdict(own, reference) -> Verdict:
    figures = [*own.figures, *OBSERVABLE.against(own, reference)]
    return OBSERVABLE.verdict(own, judge(figures, reference, OBSERVABLE.limits(), OBSERVABLE.strict))


@pytest.fixture(scope="module")
def runs():
    """Eight runs of the same potential with other seeds."""
    return [measured(seed, slow=0.08) for seed in range(8)]


def test_two_runs_of_the_same_potential_are_not_distinguishable_in_95_percent_of_pairs(runs):
    words = [verdict(a, b).word for a, b in itertools.combinations(runs, 2)]
    assert np.mean([word == "same" for word in words]) >= 0.95


def test_a_run_and_its_copy_are_not_distinguishable_however_short(runs):
    assert verdict(runs[0], runs[0]) == Verdict("same", "not distinguishable")
    short = measured(0, ps=0.4)
    assert verdict(short, short).word == "same"


def test_scaled_bonds_are_found_and_longer_runs_find_smaller_changes(runs):
    longer = measured(50, bond=1.1 * 2.05, slow=0.08)
    found = verdict(longer, runs[0])
    assert found.word in ("near", "off", "beyond")
    assert "P-S" in found.detail
    long = measured(1, ps=16.0)
    assert verdict(measured(2, ps=16.0, bond=1.03 * 2.05), long).word not in ("same", "told")
    assert verdict(measured(3, ps=16.0), long).word == "same"


def test_the_distance_of_equal_potentials_is_no_longer_pushed_up_by_noise(runs):
    pairs = [OBSERVABLE.against(a, b) for a, b in itertools.combinations(runs, 2)]
    own = [f.value for figures in pairs for f in figures if f.subject == "g(r) P-S" and "distance" in f.kind]
    plain = [
        np.abs(np.array(a.curves[1].y) - b.curves[1].y).mean() / np.mean(b.curves[1].y)
        for a, b in itertools.combinations(runs, 2)
    ]
    assert np.median(own) < 0.5 * np.median(plain)


def test_the_distance_of_different_potentials_is_that_of_their_exact_curves():
    frames = [dimers(seed, ps=16.0, width=width) for seed, width in ((0, 0.08), (1, 0.16))]
    own, reference = (OBSERVABLE.count([run], APART_FS) for run in frames)
    a, b = (np.array(one.curves[1].y) for one in (own, reference))
    found = next(f for f in OBSERVABLE.against(own, reference) if f.subject == "g(r) P-S" and "distance" in f.kind)
    assert found.value == pytest.approx(np.abs(a - b).mean() / b.mean(), rel=0.05)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("bond", [2.03, 2.04, 2.05, 2.06, 2.07])
def test_the_first_peak_lies_between_bins(bond):
    rng = np.random.default_rng(0)
    rest = np.vstack([SITES, SITES + np.array([bond, 0, 0])])
    frames = [
        Atoms(
            "P8S8", rest + 0.06 * rng.standard_normal(rest.shape) * np.array([1, 0, 0]), cell=[2 * EDGE] * 3, pbc=True
        )
        for _ in range(200)
    ]
    found = OBSERVABLE.count([frames], APART_FS).by_name()["P-S: first peak"]
    assert found.value == pytest.approx(bond, abs=0.008)  # bins are 0.05 Å wide


def test_what_is_too_short_says_how_long_it_has_to_be(runs):
    short = measured(0, ps=0.4)
    reason = "0.4 ps after the first 1 ps; a verdict needs 5 ps (5 blocks of 1 ps)"
    assert verdict(short, runs[0]) == Verdict("told", "too short for a verdict", reason)
    assert verdict(runs[0], short) == Verdict("told", "too short for a verdict", f"the reference has {reason}")


def test_runs_of_several_seeds_count_together():
    halves = [dimers(seed, ps=2.5) for seed in (0, 1)]
    assert not any(figure.short for figure in OBSERVABLE.count([*halves, dimers(2, ps=1.0)], APART_FS).figures)
    assert all(figure.short for figure in OBSERVABLE.count(halves, APART_FS).figures)  # 2 + 2 whole blocks


def test_the_temperature_of_the_reference_is_measured_and_a_wrong_one_is_told(tmp_path):
    frames = dimers(0, ps=6.0)
    rng = np.random.default_rng(0)
    for atoms in frames:
        thermalize_momenta(atoms, 950.0, rng=rng)
        atoms.set_momenta(atoms.get_momenta() - atoms.get_momenta().mean(axis=0))  # the centre of mass rests
        kinetic = (3 * len(atoms) - 3) * units.kB * 950.0 / 2
        atoms.set_momenta(atoms.get_momenta() * np.sqrt(kinetic / atoms.get_kinetic_energy()))
        atoms.info["REF_energy"] = 0.0
    ase.io.write(tmp_path / "dft.extxyz", frames, format="extxyz")
    files = [str(tmp_path / "dft.extxyz")]
    for setting, warned in ((900.0, True), (950.0, False)):
        observable = Distributions(structures=files, trajectory=files, trajectory_fs=APART_FS, temperature_K=setting)
        found = observable.recorded(Labels(files).calculator(), tmp_path)
        kelvin = found.by_name()["temperature"]
        assert kelvin.value == pytest.approx(950.0, abs=0.1)
        assert any("⚠ reference: got 950 K" in note for note in found.notes) == warned


def test_the_shipped_dft_run_is_too_short_for_a_verdict_and_hotter_than_its_thermostat(root):
    files = [str(root / "data/reference/dynamics.extxyz")]
    observable = Distributions(structures=files, trajectory=files, temperature_K=900.0, settle_ps=0.1)
    found = observable.recorded(Labels(files).calculator(), root)
    momenta = [atoms.get_momenta() for atoms in ase.io.read(files[0], "50:")]
    masses = ase.io.read(files[0], 0).get_masses()
    kelvin = np.mean([(p**2 / masses[:, None]).sum() for p in momenta]) / units.kB / (3 * len(masses))
    assert found.by_name()["temperature"].value == pytest.approx(kelvin, abs=1.0)  # its centre of mass moves
    assert kelvin == pytest.approx(946, abs=1)
    assert "got 9" in found.notes[0]
    assert found.by_name()["P-S: coordination"].short.startswith("0.4 ps after the first 0.1 ps")


def test_standard_errors_of_correlated_blocks_are_those_of_their_sum():
    rng = np.random.default_rng(0)
    kept, found = 0.5, []
    for _ in range(400):
        steps = np.zeros((8, 6))
        steps[0] = rng.standard_normal(6)
        for k in range(1, 8):
            steps[k] = kept * steps[k - 1] + np.sqrt(1 - kept**2) * rng.standard_normal(6)
        plain = steps.var(axis=0, ddof=1).sum() / 8
        found.append([(steps.mean(axis=0) ** 2).sum(), squared_error(steps, memory(steps)).sum(), plain])
    true, estimate, plain = np.mean(found, axis=0)
    assert 0.65 < estimate / true < 1.3
    assert plain / true < 0.45  # as if blocks were independent
    assert squared_error(np.arange(4.0)).item() == pytest.approx(1.0)  # halves: means 0.5 and 2.5
