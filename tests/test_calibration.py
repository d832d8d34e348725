"""Calibrated errors cover what they promise for frames like those of the calibration, and say so where they do not."""

from __future__ import annotations

import dataclasses

import ase.io
import numpy as np
import pytest
import torch
from scipy import stats

import finetune
from finetune import models
from finetune.adapting import Shifted
from finetune.backbones.ace import ACE
from finetune.committee import Committee
from finetune.data.batching import collate_batch
from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.errors import InputError
from finetune.loss import Loss
from finetune.training.closed_form import ClosedForm, gather, solve, take_up
from finetune.uncertainty import Calibrated, Graded, active_sets, calibrate, coverage
from finetune.uncertainty.calibration import LEVELS, standard_error

from .contract import predict
from .structures import ROOT, frames
from .tolerances import close

POINTS = 0.03  # of coverage, what is promised
NOISE = {3: 0.1, 15: 0.3, 16: 0.2}  # eV/Å, per direction


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    potential = ACE(["Li", "P", "S"], nmax=[3, 1], lmax=[0, 2], functions=None, cutoff=4.0).eval()
    torch.nn.init.normal_(potential.coefficients, std=0.1)
    return potential


def noisy(potential, rng, scale=1.0, repeats=1, start=0):
    """Frames whose labels are what the potential says, plus normal noise of `NOISE` for each element."""
    made = []
    others = [atoms for k, atoms in enumerate(frames()) if k % 6]  # than those of active sets
    for k, atoms in enumerate(others[start::2] * repeats):
        said = predict(potential, atoms).forces.numpy()
        noise = scale * np.array([NOISE[z] for z in atoms.numbers])[:, None]
        made.append(Frame(atoms, {"forces": said + noise * rng.normal(size=said.shape)}, "made", k, "made", str(k)))
    return made


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_error_of_normal_noise_is_its_known_quantile(small, rng, level):
    calibrated = calibrate(small, noisy(small, rng), level)
    assert calibrated.score == "constant"
    atoms = frames()[1]
    stated = predict(calibrated, atoms).forces_error.numpy()
    for number, noise in NOISE.items():
        own = atoms.numbers == number
        np.testing.assert_allclose(stated[own], noise * stats.chi(3).ppf(level), rtol=0.1)


def test_coverage_is_nominal_at_all_levels_for_data_of_the_same_kind(small, rng):
    calibrated = calibrate(small, noisy(small, rng, repeats=6))
    report = coverage(calibrated, noisy(small, rng, repeats=6, start=1))
    assert report.warnings == ()
    assert np.abs(np.array(report.all.coverage) - report.levels).max() < POINTS
    assert report.all.covered == pytest.approx(0.9, abs=POINTS)
    assert set(report.element) == {"Li", "P", "S"}
    for row in report.element.values():
        assert row.covered == pytest.approx(0.9, abs=2 * POINTS)
    # CRPS of |x| for x normal in three directions, from its quantiles
    noise = np.array([NOISE[z] for frame in noisy(small, rng, start=1) for z in frame.atoms.numbers])
    sample = stats.chi(3).ppf((np.arange(2000) + 0.5) / 2000)
    spread = np.abs(sample[:, None] - sample).mean() / 2
    assert report.all.crps == pytest.approx(spread * noise.mean(), rel=0.05)


def test_the_quantile_is_the_finite_sample_one(small, rng):
    some = noisy(small, rng)[:6]
    numbers = np.concatenate([frame.atoms.numbers for frame in some])
    errors = np.concatenate(
        [np.linalg.norm(f.given["forces"] - predict(small, f.atoms).forces.numpy(), axis=1) for f in some]
    )
    calibrated = calibrate(small, some, 0.8)
    for number, found in calibrated.calibrations.items():
        own = np.sort(errors[numbers == number])
        rank = int(np.ceil(0.8 * (len(own) + 1) - 1e-9))
        assert found.atoms == len(own)
        close(found.quantiles[-1] * (1 + found.floor), own[rank - 1], "identity, float64")
    few = min(calibrated.calibrations.values(), key=lambda found: found.atoms)
    assert few.atoms < 99
    assert few.quantiles[LEVELS.index(0.99)] == np.inf


def test_errors_go_with_a_score_that_knows_them(small, rng):
    graded = Graded(small, active_sets(small, frames()[::6])).eval()

    def made(start, by_gamma):
        some = noisy(small, rng, repeats=4, start=start)
        for frame in some:
            said = predict(graded, frame.atoms)
            noise = 0.1 * said.gamma.numpy()[:, None] if by_gamma else 0.1
            frame.given["forces"] = said.forces.numpy() + noise * rng.normal(size=said.forces.shape)
        return some

    knowing = coverage(calibrate(graded, made(0, True)), made(1, True))
    ignorant = coverage(calibrate(graded, made(0, True), score="constant"), made(1, True))
    useless = coverage(calibrate(graded, made(0, False)), made(1, False))
    assert knowing.score == "gamma"
    assert knowing.all.rank_correlation > 0.2 > 0.1 > abs(useless.all.rank_correlation)
    assert knowing.all.crps < ignorant.all.crps
    for report in (knowing, ignorant, useless):
        assert report.all.covered == pytest.approx(0.9, abs=POINTS)


@pytest.fixture(scope="module")
def fitted():
    """A small expansion solved for on the training frames of data/starting."""
    potential = Shifted(ACE(["Li", "P", "S"], nmax=[6, 2, 1], lmax=[0, 2, 1], functions=None))
    train = read(ROOT / "data/starting/train.extxyz")
    graphs, labels = [potential.graph(frame.atoms) for frame in train], [frame.labels for frame in train]
    batches = [collate_batch(potential.collate, graphs, labels, [k]) for k in range(len(train))]
    equations = gather(potential, batches)
    take_up(potential, solve(equations, None, Loss(), ClosedForm(ridge="evidence")))
    return Graded(potential.eval(), active_sets(potential, train)).eval()


@pytest.mark.parametrize("score", ["constant", "gamma"])
def test_coverage_of_dft_forces_is_within_three_points(fitted, rng, score):
    held_out = [f for name in ("valid", "test") for f in read(ROOT / f"data/starting/{name}.extxyz")]
    covered, atoms = 0.0, 0
    for _ in range(40):
        order = rng.permutation(len(held_out))
        halves = [[held_out[k] for k in part] for part in (order[::2], order[1::2])]
        report = coverage(calibrate(fitted, halves[0], 0.9, score), halves[1])
        covered, atoms = covered + report.all.covered * report.all.atoms, atoms + report.all.atoms
    assert covered / atoms == pytest.approx(0.9, abs=POINTS)


def test_a_shift_is_told_and_its_absence_is_not(small, rng):
    calibrated = calibrate(small, noisy(small, rng))
    worse = coverage(calibrated, noisy(small, rng, scale=1.5, start=1))
    assert worse.warnings[0].startswith("the atoms look unlike those of the calibration")
    assert "larger than stated" in worse.warnings[0]
    assert worse.all.covered < 0.9 - POINTS
    better = coverage(calibrated, noisy(small, rng, scale=0.5, start=1))
    assert "smaller than stated" in better.warnings[0]
    quiet = [coverage(calibrated, noisy(small, rng, start=1)).warnings for _ in range(5)]
    assert quiet == [()] * 5


def test_a_shift_of_structures_is_told_for_dft_forces(fitted):
    held_out = [f for name in ("valid", "test") for f in read(ROOT / f"data/starting/{name}.extxyz")]
    crystals = [f for f in read(ROOT / "data/starting/train.extxyz") if f.family == "crystal"]
    assert coverage(calibrate(fitted, crystals, score="constant"), held_out).warnings


def test_an_element_with_few_atoms_takes_the_errors_of_all_or_is_refused(small, rng):
    some = [frame for frame in noisy(small, rng) if 15 not in frame.atoms.numbers][:4]
    lone = frames()[0].copy()
    lone.numbers[0] = 15
    with_phosphorus = dataclasses.replace(some[0], atoms=lone, given={"forces": np.zeros((len(lone), 3))})
    calibrated = calibrate(small, [*some, with_phosphorus])
    assert calibrated.calibrations[15].pooled
    assert not calibrated.calibrations[3].pooled
    assert "those of all elements" in "".join(calibrated.messages())
    with pytest.raises(InputError, match="labelled atoms of P are too few for a level"):
        calibrate(small, [*some, with_phosphorus], pool=False)


def test_nothing_is_stated_of_an_element_without_calibration(small, rng):
    lithium = [frame for frame in noisy(small, rng, repeats=8) if set(frame.atoms.numbers) == {3}]
    if not lithium:
        atoms = ase.build.bulk("Li", cubic=True).repeat(2)
        lithium = [Frame(atoms, {"forces": rng.normal(size=(16, 3))}, "made", 0, "made", "0")]
    calibrated = calibrate(small, lithium)
    glass = noisy(small, rng)[-1]
    stated = predict(calibrated, glass.atoms).forces_error
    assert (torch.isinf(stated) == torch.from_numpy(glass.atoms.numbers != 3)).all()
    assert any("had no P" in text for text in coverage(calibrated, [glass]).warnings)


def test_calibrations_are_stored_with_the_model(small, rng, tmp_path):
    graded = Graded(Committee([small, Shifted(small, {3: 1.0})]), active_sets(small, frames()[:1]))
    inner = Graded(small, active_sets(small, frames()[::6]))
    calibrated = calibrate(inner, noisy(small, rng), 0.8)
    finetune.save(calibrated, tmp_path / "calibrated.pt")
    again = models.load(tmp_path / "calibrated.pt")
    atoms = frames()[3].copy()
    assert torch.equal(predict(again, atoms).forces_error, predict(calibrated, atoms).forces_error)
    assert (again.level, again.score) == (0.8, "gamma")
    assert again.calibrations[3].scatter == calibrated.calibrations[3].scatter
    atoms.calc = finetune.calculator(tmp_path / "calibrated.pt", device="cpu")
    atoms.get_forces()
    close(atoms.calc.results["forces_error"], predict(again, atoms).forces_error, "identity, float64")
    assert again.bare().config() == small.config()
    assert isinstance(graded, Graded)
    assert calibrated.train()(calibrated.collate([calibrated.graph(atoms)])).forces_error is None
    calibrated.eval()


def test_a_calibration_is_replaced_not_stacked(small, rng):
    twice = calibrate(calibrate(small, noisy(small, rng)), noisy(small, rng), 0.7)
    assert isinstance(twice, Calibrated)
    assert twice.potential is small
    assert twice.level == 0.7


def test_the_spread_of_a_committee_is_a_score(small, rng):
    other = ACE(**small.settings).eval()
    torch.nn.init.normal_(other.coefficients, std=0.1)
    committee = Committee([small, other])
    calibrated = calibrate(committee, noisy(small, rng))
    assert calibrated.score == "forces_std"
    said = predict(calibrated, frames()[2])
    found = calibrated.calibrations
    spread = said.forces_std.norm(dim=1)
    floors = torch.tensor([found[z].floor for z in frames()[2].numbers])
    factors = torch.stack([found[z].quantiles[-1] for z in frames()[2].numbers])
    close(said.forces_error, factors * (spread + floors), "identity, float64")


def test_related_values_have_a_larger_standard_error(rng):
    groups = np.repeat(np.arange(400), 10)
    alone = rng.normal(size=4000)
    shared = rng.normal(size=400)[groups]
    assert standard_error(alone, groups) == pytest.approx(1 / np.sqrt(4000), rel=0.15)
    assert standard_error(shared, groups) == pytest.approx(1 / np.sqrt(400), rel=0.15)


def test_mistakes_are_told(small, rng):
    some = noisy(small, rng)
    with pytest.raises(InputError, match="no frames to calibrate by"):
        calibrate(small, [])
    with pytest.raises(InputError, match=r"the level is 1\.5"):
        calibrate(small, some, 1.5)
    with pytest.raises(InputError, match="says no gamma; grade it first"):
        calibrate(small, some, score="gamma")
    with pytest.raises(InputError, match="score"):
        calibrate(small, some, score="gama")
    with pytest.raises(InputError, match="needs 9"):
        calibrate(small, [dataclasses.replace(f, given={}) for f in some])
    with pytest.raises(InputError, match="states no errors"):
        coverage(small, some)
    with pytest.raises(InputError, match="no frame has forces"):
        coverage(calibrate(small, some), [])
