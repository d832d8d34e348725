"""Self-diffusion of walkers whose diffusivity is known in closed form."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from ase import Atoms

from finetune.comparison.diffusion import estimate_diffusivity
from finetune.comparison.displacements import unwrap
from finetune.comparison.transport import activation, describe
from finetune.errors import InputError

FRAME_PS = 0.1
SEEDS = 24


def brownian(rng, diffusivity, frames=400, atoms=40) -> np.ndarray:
    return np.cumsum(rng.standard_normal((frames, atoms, 3)) * math.sqrt(2 * diffusivity * FRAME_PS), axis=0)


def caged(rng, rate, hop, width, relaxation, frames, atoms=50) -> np.ndarray:
    """Ornstein-Uhlenbeck motion in harmonic cages whose centres hop by `hop` at `rate`; D = rate hop² / 6."""
    directions = rng.standard_normal((frames, atoms, 3))
    directions *= hop / np.linalg.norm(directions, axis=2, keepdims=True)
    centres = np.cumsum(directions * (rng.random((frames, atoms, 1)) < rate * FRAME_PS), axis=0)
    kept = math.exp(-FRAME_PS / relaxation)
    inside = np.empty((frames, atoms, 3))
    inside[0] = width * rng.standard_normal((atoms, 3))
    noise = width * math.sqrt(1 - kept**2) * rng.standard_normal((frames, atoms, 3))
    for frame in range(1, frames):
        inside[frame] = kept * inside[frame - 1] + noise[frame]
    return centres + inside


WALKERS = {  # rate per ps, hop in Å, rms displacement in the cage along an axis in Å, relaxation in ps, frames
    "tight cages, rare hops": (0.0288, 2.5, 0.25, 0.5, 2000),
    "slowly relaxing cages, many hops": (0.45, 2.0, 0.4, 1.0, 1000),
}


@functools.cache
def estimates(name):
    rate, hop, *cage = WALKERS[name]
    walks = [caged(np.random.default_rng(seed), rate, hop, *cage) for seed in range(SEEDS)]
    return rate * hop**2 / 6, [estimate_diffusivity(walk, FRAME_PS) for walk in walks]


@pytest.mark.parametrize("name", WALKERS)
def test_the_diffusivity_of_caged_walkers_is_in_its_interval_and_unbiased(name):
    true, found = estimates(name)
    values = [one.value for one in found if not one.reason]
    assert len(values) >= 0.9 * SEEDS
    assert np.mean(values) == pytest.approx(true, rel=0.1)
    assert sum(one.low < true < one.high for one in found) >= 0.9 * SEEDS
    halves = [(one.high - one.low) / 2 for one in found if not one.reason]
    assert np.mean(halves) < 0.25 * true  # an interval that excludes nothing would cover too


def test_the_diffusive_regime_begins_after_the_relaxation_of_the_cage():
    _, found = estimates("slowly relaxing cages, many hops")
    assert np.median([one.start_ps for one in found]) > 2.0


def test_the_diffusivity_of_brownian_motion_is_in_its_interval_from_the_first_lags_on():
    found = [estimate_diffusivity(brownian(np.random.default_rng(seed), 0.3), FRAME_PS) for seed in range(24)]
    assert sum(one.low < 0.3 < one.high for one in found) >= 22
    assert np.mean([one.value for one in found]) == pytest.approx(0.3, rel=0.05)
    assert np.median([one.start_ps for one in found]) <= 0.5
    np.testing.assert_allclose(found[0].squares[:5], 6 * 0.3 * found[0].lags_ps[:5], rtol=0.1)


@pytest.mark.parametrize(("width", "relaxation"), [(0.4, 0.5), (0.8, 2.0), (1.2, 5.0)])
def test_atoms_that_stay_in_their_cages_have_a_bound_and_no_diffusivity(width, relaxation):
    for seed in range(20):
        walk = caged(np.random.default_rng(seed), 0.0, 2.0, width, relaxation, frames=400, atoms=20)
        found = estimate_diffusivity(walk, FRAME_PS)
        assert math.isnan(found.value)
        assert found.low == 0
        assert 0 < found.high < 6 * width**2 * 2 / (6 * 20.0)  # twice the plateau over 6 t, t = half of the run
        assert found.reason
        assert len(found.draws) == 0


def test_a_run_that_is_too_short_for_a_hop_has_a_bound_above_the_diffusivity():
    for seed in range(20):
        walk = caged(np.random.default_rng(seed), 0.0288, 2.5, 0.4, 0.5, frames=100)
        found = estimate_diffusivity(walk, FRAME_PS)
        assert math.isnan(found.value)
        assert found.high > 0.03  # 0.0288 * 2.5² / 6
        assert "log-log slope" in found.reason or "less than a hop" in found.reason


def test_diffusion_over_less_than_a_hop_is_a_bound(rng):
    found = estimate_diffusivity(brownian(rng, 0.01), FRAME_PS)  # 6 D t = 2.4 Å²
    assert "less than a hop of 2 Å" in found.reason
    assert 0.01 < found.high < 0.02
    assert not estimate_diffusivity(brownian(rng, 0.01), FRAME_PS, hop=1.0).reason


def test_free_flight_has_neither_a_diffusivity_nor_a_bound(rng):
    flight = rng.standard_normal((30, 3))[None] * np.arange(200)[:, None, None] * 0.1
    found = estimate_diffusivity(flight, FRAME_PS)
    assert math.isnan(found.value)
    assert math.isinf(found.high)
    assert "no bound" in describe(found)


@pytest.mark.parametrize("frames", [3, 5, 12])
def test_a_few_frames_give_no_verdict(rng, frames):
    found = estimate_diffusivity(brownian(rng, 5.0, frames=frames), FRAME_PS)
    assert math.isnan(found.value)
    assert "few" in found.reason


def test_atoms_that_do_not_move_are_bounded_by_hops_that_could_have_been_missed():
    found = estimate_diffusivity(np.zeros((101, 10, 3)), FRAME_PS, hop=2.0)
    assert found.high == pytest.approx(3 * 2.0**2 / (6 * 10 * 10.0))  # three hops of 10 atoms in 10 ps


def test_diffusion_in_a_plane_and_of_one_atom_is_estimated_in_its_dimension():
    found = [estimate_diffusivity(brownian(np.random.default_rng(s), 0.3)[..., :2], FRAME_PS) for s in range(20)]
    assert sum(one.low < 0.3 < one.high for one in found) >= 18
    assert np.mean([one.value for one in found]) == pytest.approx(0.3, rel=0.06)


def test_a_single_atom_has_an_interval_that_covers_or_a_bound():
    found = [estimate_diffusivity(brownian(np.random.default_rng(s), 0.3, atoms=1), FRAME_PS) for s in range(20)]
    assert sum(one.low < 0.3 < one.high for one in found) >= 18
    assert any(not one.reason for one in found)


def test_the_posterior_is_that_of_kinisis_markov_chain_widened_by_a_fifth():
    import scipp
    from kinisi.diffusion import Diffusion

    frames, atoms, lag = 300, 150, "time interval"
    found = estimate_diffusivity(brownian(np.random.default_rng(1), 0.5, frames, atoms), FRAME_PS)
    independent = atoms * (frames - 1) * FRAME_PS / found.lags_ps
    gaussian = 2 / 3 * (6 * 0.5 * found.lags_ps) ** 2 / independent
    squares = scipp.array(dims=[lag], values=found.squares, variances=gaussian, unit="angstrom**2")
    coordinates = {
        lag: scipp.array(dims=[lag], values=found.lags_ps, unit="ps"),
        "n_samples": scipp.array(dims=[lag], values=independent),
    }
    data = {"da": scipp.DataArray(squares, coords=coordinates), "dimensionality": scipp.scalar(3)}
    chain = Diffusion(scipp.DataGroup(data))
    start = scipp.scalar(0.999 * found.start_ps, unit="ps")
    chain.bayesian_regression(start, progress=False, random_state=np.random.RandomState(0))
    low, middle, high = np.percentile(chain.gradient.values / 6, [2.5, 50, 97.5])
    assert found.value == pytest.approx(middle, abs=0.1 * (high - low))
    assert found.high - found.low == pytest.approx(1.2 * (high - low), rel=0.1)
    assert np.percentile(found.draws, 97.5) == pytest.approx(found.high, rel=0.01)


TRICLINIC = np.array([[9.0, 0.0, 0.0], [4.0, 8.0, 0.0], [-3.5, 2.5, 7.0]])


def framed(walk, cell, drift=0.0) -> list[Atoms]:
    """Wrapped frames with four atoms of a framework; all drift by a vector per frame."""
    frames = []
    fixed = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]) @ cell
    for step, places in enumerate(walk):
        atoms = Atoms(f"Li{len(places)}P4", np.vstack([places, fixed]) + step * np.asarray(drift), cell=cell, pbc=True)
        atoms.wrap()
        frames.append(atoms)
    return frames


def test_wrapped_walkers_in_a_triclinic_cell_are_unwrapped_to_their_walk(rng):
    walk = brownian(rng, 0.5, atoms=8)
    moved = unwrap(framed(walk, TRICLINIC), "Li")
    np.testing.assert_allclose(moved, walk - walk[0], atol=1e-9)
    assert np.abs(moved).max() > 9.0  # beyond the cell


def test_an_expanding_cell_moves_no_atom_by_more_than_its_expansion(rng):
    walk = np.zeros((20, 8, 3)) + rng.random((8, 3)) @ TRICLINIC
    frames = framed(walk, TRICLINIC)
    for step, atoms in enumerate(frames):
        atoms.set_cell(TRICLINIC * (1 + 0.001 * step), scale_atoms=True)
    np.testing.assert_allclose(unwrap(frames, "Li"), 0.0, atol=1e-9)


def test_steps_in_a_growing_cell_have_the_length_of_the_cell_that_they_end_in(rng):
    """Fractional steps of 0.1 of the first vector in a cell that doubles: their lengths add up cell by cell."""
    walk = rng.random((1, 2, 3)) @ TRICLINIC + 0.1 * np.arange(11)[:, None, None] * TRICLINIC[0]
    walk[:, 1] = walk[0, 1]  # the second atom rests
    frames, sizes = framed(walk, TRICLINIC), 1 + 0.1 * np.arange(11)
    for size, atoms in zip(sizes, frames, strict=True):
        atoms.set_cell(TRICLINIC * size, scale_atoms=True)
    moved = unwrap(frames, "Li")
    expected = 0.1 * np.concatenate([[0.0], np.cumsum(sizes[1:])])[:, None] * TRICLINIC[0]
    np.testing.assert_allclose(moved[:, 0], expected, atol=1e-9)
    np.testing.assert_allclose(moved[:, 1], 0.0, atol=1e-9)


def test_drift_of_the_whole_cell_is_no_diffusion(rng):
    walk = brownian(rng, 0.5, atoms=8)
    drift = [0.3, -0.2, 0.5]
    np.testing.assert_allclose(unwrap(framed(walk, TRICLINIC, drift), "Li"), walk - walk[0], atol=1e-9)
    alone = [atoms[:8] for atoms in framed(walk, TRICLINIC, drift)]  # an element: the centre of mass
    centred = walk - walk[0]
    np.testing.assert_allclose(unwrap(alone, "Li"), centred - centred.mean(axis=1, keepdims=True), atol=1e-9)


def test_steps_of_half_a_cell_and_elements_that_are_not_there_are_refused(rng):
    far = np.zeros((3, 2, 3))
    far[1:, 0] = 0.49 * TRICLINIC[0]
    with pytest.raises(InputError, match="Write frames more often"):
        unwrap(framed(far, TRICLINIC), "Li")
    with pytest.raises(InputError, match="got element Na, expected one of Li, P"):
        unwrap(framed(np.zeros((3, 2, 3)), TRICLINIC), "Na")
    with pytest.raises(InputError, match="got shape"):
        estimate_diffusivity(np.zeros((5, 3)), FRAME_PS)
    with pytest.raises(InputError, match="not finite"):
        estimate_diffusivity(np.full((9, 2, 3), np.nan), FRAME_PS)


def test_an_activation_energy_needs_three_temperatures(rng):
    draws = {t: np.exp(-4000 / t) * (1 + 0.02 * rng.standard_normal(2000)) for t in (500.0, 700.0, 900.0)}
    assert len(activation(draws, seed=0)) == 1
    del draws[700.0]
    assert activation(draws, seed=0) == []


FRESH = {  # diffusivity, and a walk by its generator; seeds that nothing was tuned on
    "tight cages, rare hops": (0.0288 * 2.5**2 / 6, lambda rng: caged(rng, 0.0288, 2.5, 0.25, 0.5, 2000)),
    "slowly relaxing cages": (0.45 * 2.0**2 / 6, lambda rng: caged(rng, 0.45, 2.0, 0.4, 1.0, 1000)),
    "wide cages": (0.45 * 2.0**2 / 6, lambda rng: caged(rng, 0.45, 2.0, 0.58, 1.0, 1000)),
    "20 atoms, hops of 3 Å": (0.02 * 3.0**2 / 6, lambda rng: caged(rng, 0.02, 3.0, 0.25, 0.5, 2000, atoms=20)),
    "Brownian, 40 atoms": (0.3, lambda rng: brownian(rng, 0.3)),
    "Brownian, 10 atoms": (0.3, lambda rng: brownian(rng, 0.3, atoms=10)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FRESH)
def test_intervals_cover_in_ninety_of_a_hundred_walks_of_other_seeds(name):
    true, walk = FRESH[name]
    found = [estimate_diffusivity(walk(np.random.default_rng(10_000 + seed)), FRAME_PS) for seed in range(60)]
    known = [one for one in found if not one.reason]
    covered = sum(one.low < true < one.high for one in known)
    bias = np.mean([one.value for one in known]) / true - 1
    print(f"{name}: {len(known)} of 60 with a value, bias {100 * bias:.1f} %, {covered} covered")
    assert len(known) >= 54
    assert covered >= 0.9 * len(known)
    assert abs(bias) < 0.03
