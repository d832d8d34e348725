"""Which frames DFT is asked for: selectors against answers worked out by hand or by trying all sets."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from finetune.backbones.ace import ACE
from finetune.errors import InputError
from finetune.learning import KDPP, Batch, FarthestPoints, MaxVol, Random, Top, selection
from finetune.learning.describing import closeness, describe, mixing, scale
from finetune.learning.selectors import Candidates, Selector
from finetune.learning.stopping import Stop, Summary

NONE = np.zeros((0, 2))
GREEDY_FAILS = (9, 12, 21, 28, 29)  # seeds for which pivoted QR alone does not find the largest volume
SELECTORS = [Random(), Top(), MaxVol(), FarthestPoints(), KDPP(), Batch()]


def line(*places: float) -> np.ndarray:
    """Features along a line."""
    return np.array([[place, 0.0] for place in places])


def candidates(features: np.ndarray, scores: list[float], taken: np.ndarray = NONE) -> Candidates:
    """Candidates that are all at the reaction front."""
    return Candidates(np.array(scores), features, np.ones(len(scores)), taken)


def test_top_takes_the_most_uncertain_first_and_of_equal_ones_the_earlier() -> None:
    assert selection.top(np.array([0.1, 0.7, 0.3, 0.7]), 3) == [1, 3, 2]


def test_random_choice_follows_the_generator_and_takes_each_once() -> None:
    draws = [selection.random_choice(6, 4, np.random.default_rng(seed)) for seed in range(300)]
    assert all(len(set(draw)) == 4 for draw in draws)
    assert draws[0] == selection.random_choice(6, 4, np.random.default_rng(0))
    counts = Counter(k for draw in draws for k in draw)
    assert max(abs(counts[k] - 200) for k in range(6)) < 4 * np.sqrt(300 * 2 / 9)  # binomial, p = 2/3
    assert len(selection.random_choice(2, 9, np.random.default_rng(0))) == 2


def test_farthest_points_go_to_the_ends_then_to_the_middle() -> None:
    assert selection.farthest_points(line(0, 1, 5.2, 9, 10), 3, line(0)) == [4, 2, 1]


@pytest.mark.parametrize("seed", GREEDY_FAILS)
def test_maxvol_finds_the_largest_determinant_of_all_sets(seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(9, 3))
    chosen = selection.maxvol(features, 3, np.zeros((0, 3)))
    volumes = {s: abs(np.linalg.det(features[list(s)])) for s in itertools.combinations(range(9), 3)}
    assert abs(np.linalg.det(features[chosen])) == pytest.approx(max(volumes.values()), rel=1e-9)


def test_no_exchange_enlarges_the_volume_of_maxvol() -> None:
    rows = np.random.default_rng(8).normal(size=(60, 8))
    chosen = selection.maxvol(rows, 8, np.zeros((0, 8)))
    assert np.abs(rows @ np.linalg.inv(rows[chosen])).max() <= selection.SWAP


def test_maxvol_leaves_directions_that_labels_have_already() -> None:
    features = np.array([[5.0, 0.0], [0.0, 1.0]])
    assert selection.maxvol(features, 1, NONE) == [0]
    assert selection.maxvol(features, 1, np.array([[4.0, 0.0]])) == [1]


def test_maxvol_fills_up_beyond_the_rank_with_far_points() -> None:
    assert sorted(selection.maxvol(line(1.0, 1.01, 4.0, 8.0), 3, NONE)) == [0, 2, 3]


def test_kdpp_draws_sets_in_proportion_to_their_determinants() -> None:
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(5, 5)) * [1.0, 0.3, 2.0, 1.0, 0.5]
    likelihood = factor @ factor.T
    weights = {s: np.linalg.det(likelihood[np.ix_(s, s)]) for s in itertools.combinations(range(5), 3)}
    draws = 4000
    seen = Counter(tuple(sorted(selection.kdpp(likelihood, 3, rng))) for _ in range(draws))
    for chosen, weight in weights.items():
        expected = weight / sum(weights.values())
        assert abs(seen[chosen] / draws - expected) < 4 * np.sqrt(expected * (1 - expected) / draws)


def test_the_kernel_of_a_kdpp_is_quality_times_likeness() -> None:
    likelihood = selection.kernel(line(0, 1, 3), np.array([2.0, 1.0, 2.0]))  # distances 1, 2 and 3: the median is 2
    assert likelihood[0, 0] == pytest.approx(1.0)
    assert likelihood[0, 1] == pytest.approx(0.5 * np.exp(-1 / 8))


def test_batch_multiplies_uncertainty_distance_and_front_and_counts_what_it_has_chosen() -> None:
    scores, features = np.array([1.0, 0.9, 0.5, 0.45]), line(1.0, 1.1, 3.0, 3.1)
    front = np.ones(4)
    # products with the distance to 0: 1.00, 0.99, 1.50, 1.40; with that to the third too: 1.00, 0.99, -, 0.05
    assert selection.batch(scores, features, front, 2, line(0.0)) == [2, 0]
    # far from the front, the third counts half: 0.75
    assert selection.batch(scores, features, np.array([1.0, 1.0, 0.0, 0.0]), 1, line(0.0)) == [0]
    assert selection.batch(scores, features, front, 1, line(0.0), (1.0, 0.0, 0.0)) == [0]
    assert selection.batch(scores, features, front, 1, line(0.0), (0.0, 1.0, 0.0)) == [3]


def test_one_run_gives_no_more_than_its_share_of_a_batch_while_others_have_candidates() -> None:
    scores = [9.0, 8.0, 7.0, 6.0, 1.0, 0.9, 0.8]
    runs = np.array(["astray"] * 4 + ["sound", "sound", "other"])
    told = replace(candidates(line(0, 1, 2, 3, 4, 5, 6), scores), runs=runs)
    greedy = Batch(apart=0.0, diversity=0.0)
    rng = np.random.default_rng(0)
    assert greedy(told, 4, rng) == [0, 1, 2, 3]
    assert replace(greedy, share=0.5)(told, 4, rng) == [0, 1, 4, 5]
    assert replace(greedy, share=0.25)(told, 4, rng) == [0, 4, 6, 1]  # no run is left: the best of what remains
    with pytest.raises(InputError, match="share"):
        Batch(share=0.0)


def test_fresh_refuses_what_is_near_to_labels_or_to_each_other() -> None:
    assert selection.fresh(line(0.0, 1.0, 1.05, 1.1, 2.0), line(0.05), 0.1) == [1, 3, 4]
    assert selection.fresh(line(0.0, 0.0), NONE, 0.0) == [0, 1]


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda selector: type(selector).__name__)
def test_every_selector_refuses_duplicates_and_keeps_the_most_uncertain_of_them(selector: Selector) -> None:
    found = candidates(line(1.0, 1.001, 2.0, 5.0, 7.0), [0.2, 0.4, 0.3, 9.0, 0.5], taken=line(5.001))
    chosen = selector(found, 4, np.random.default_rng(0))
    assert set(chosen) <= {1, 2, 4}
    assert len(chosen) == len(set(chosen)) == (2 if isinstance(selector, KDPP) and len(chosen) == 2 else 3)
    assert selector(candidates(NONE, []), 4, np.random.default_rng(0)) == []


def test_descriptors_of_a_frame_are_the_design_of_its_energy_per_atom() -> None:
    potential = ACE(["Li", "S"], cutoff=4.0, nmax=[3, 1], lmax=[0, 1], functions=None)
    frames = [bulk("LiS", "rocksalt", a=5.0, cubic=True), bulk("LiS", "zincblende", a=5.5)]
    for atoms in frames:
        atoms.rattle(0.1, seed=1)
        row = potential.design(potential.collate([potential.graph(atoms)])).energy[0] / len(atoms)
        np.testing.assert_allclose(describe(potential, [atoms])[0], row.numpy(), atol=1e-12)


def test_scaled_features_are_typically_one_apart_and_drop_what_never_varies() -> None:
    rows = np.random.default_rng(0).normal(3.0, 5.0, size=(200, 40))
    rows[:, 7] = 1.0
    features, taken = scale(rows[:150], rows[150:])
    assert features.shape == (150, 39)
    apart = np.linalg.norm(features[:50] - taken, axis=1)
    assert apart.mean() == pytest.approx(1.0, abs=0.05)


def test_mixing_is_nought_in_a_reactant_and_counts_both_elsewhere() -> None:
    lithium = bulk("Li", cubic=True)
    assert mixing(lithium, ("Li", "S")).max() == 0.0
    # six unlike neighbours and itself: t = 6/7 of the way for Li, 1/7 for S, 4 t (1 - t) = 24/49 for both
    salt = bulk("LiS", "rocksalt", a=5.0, cubic=True)
    np.testing.assert_allclose(mixing(salt, ("Li", "S"), radius_A=2.6), 24 / 49)
    half = Atoms("LiS", [[0, 0, 0], [0, 0, 2]])
    np.testing.assert_allclose(mixing(half, ("Li", "S")), 1.0)
    with pytest.raises(InputError, match="one composition"):
        mixing(half, ("Li", "Li2"))


def test_closeness_weights_atoms_by_their_uncertainty() -> None:
    atoms = Atoms("LiSLi", [[0, 0, 0], [0, 0, 2], [0, 0, 50]])  # two mixed ones, one alone
    assert closeness(atoms, np.array([0.0, 0.0, 2.0]), ("Li", "S")) == 0.0
    assert closeness(atoms, np.array([1.0, 1.0, 2.0]), ("Li", "S")) == pytest.approx(0.5)
    assert closeness(atoms, np.ones(3), None) == 1.0


def history(*errors: float, labels: int = 10, **last: float) -> list[Summary]:
    """Generations with so many more labels each."""
    found = [
        Summary(k, k * labels, k * 0.5, float(error), uncertain=0.5, candidates=9, spent_h=k * 1.0)
        for k, error in enumerate(errors)
    ]
    return [*found[:-1], Summary(**{**vars(found[-1]), **last})]


@pytest.mark.parametrize(
    ("stop", "so_far", "word"),
    [
        (Stop(forces_rmse=100.0), history(300, 100), "error of forces is 100"),
        (Stop(forces_rmse=100.0), history(300, 101), None),
        (Stop(labels=20), history(300, 200, 150), "20 labels"),
        (Stop(labels=21), history(300, 200, 150), None),
        (Stop(hours=2.0), history(300, 200, 150), "2 h was the budget"),
        (Stop(hours=2.1), history(300, 200, 150), None),
        (Stop(uncertain=0.1), history(300, 200, uncertain=0.1), "10.0 % of the time"),
        (Stop(uncertain=0.1), history(300, 200, uncertain=0.11), None),
        (Stop(generations=2), history(300, 200, 150), "2 generations were wanted"),
        (Stop(generations=3), history(300, 200, 150), None),
        (Stop(plateau=0.05), history(300, 200, 199, 198), "less than 5 %"),
        (Stop(plateau=0.05), history(300, 200, 199, 150), None),
        (Stop(plateau=0.05, patience=3), history(300, 200, 199, 198), None),
        # 2.5 and 2.1 % for the labels that there are, 4.2 and 4.9 % for twice as many
        (Stop(plateau=0.04), history(300, 200, 195, 191), None),
        (Stop(plateau=0.05), history(300, 200, 195, 191), "less than 5 %"),
    ],
)
def test_a_campaign_stops_for_one_reason_at_a_time(stop: Stop, so_far: list[Summary], word: str | None) -> None:
    reason = stop.reason(so_far, start=10)
    assert (reason is None) if word is None else (reason is not None and word in reason)


def test_generations_without_candidates_end_a_campaign_after_some_patience() -> None:
    empty = [Summary(k, 0, 0.0, 300.0, candidates=None if k == 0 else 0) for k in range(3)]
    assert Stop(patience=3).reason(empty, 10) is None
    assert "nothing to ask for" in str(Stop(patience=2).reason(empty, 10))
    empty[1] = Summary(1, 0, 0.0, 300.0, candidates=5)  # all of them duplicates, or none answered
    assert "brought no new label" in str(Stop(patience=2).reason(empty, 10))
    empty[2] = Summary(2, 3, 0.0, 300.0, candidates=5)
    assert Stop(patience=2).reason(empty, 10) is None
    with pytest.raises(InputError, match="nothing would ever stop"):
        Stop(generations=None)
