from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms

from finetune.references import align, align_by, fit_references

LI, P, S = 3, 15, 16
TRUE = {LI: -1.9, P: 0.4, S: 2.75}
FORMULAS = ["Li7P3S11", "Li2S", "Li3P", "Li16", "P4S10", "Li30P6S22"]


def numbers(*formulas: str) -> list[np.ndarray]:
    return [Atoms(formula).numbers for formula in formulas]


def differences(frames: list[np.ndarray]) -> np.ndarray:
    return np.array([sum(TRUE[z] for z in frame) for frame in frames])


def test_exact_energies_per_element_are_recovered() -> None:
    frames = numbers(*FORMULAS)
    references = fit_references(frames, differences(frames))
    assert references.energies == pytest.approx(TRUE, abs=1e-12)
    assert references.rank == 3
    assert references.rms < 1e-12
    assert references.undetermined == ()
    assert references.of(frames[0]) == pytest.approx(differences(frames)[0])
    assert "not determined" not in references.message()
    assert "Li -1.9000, P +0.4000, S +2.7500" in references.message()


def test_fit_and_standard_errors_equal_the_normal_equations_of_errors_per_atom() -> None:
    rng = np.random.default_rng(3)
    frames = numbers(*(FORMULAS * 3))
    d = differences(frames) + rng.normal(size=len(frames))
    counts = np.array([[(frame == z).sum() for z in (LI, P, S)] for frame in frames])
    n = counts.sum(axis=1)
    x, y = counts / n[:, None], d / n
    inverse = np.linalg.inv(x.T @ x)
    expected = inverse @ x.T @ y
    r = y - x @ expected
    references = fit_references(frames, d)
    assert list(references.energies.values()) == pytest.approx(expected, rel=1e-10)
    assert references.rms == pytest.approx(np.sqrt((r**2).mean()), rel=1e-10)
    errors = np.sqrt(np.diag(inverse) * (r**2).sum() / (len(frames) - 3))
    assert list(references.standard_errors.values()) == pytest.approx(errors, rel=1e-10)


def test_one_composition_gets_the_minimum_norm_answer_and_is_told_so() -> None:
    frames = numbers("Li7P3S11", "Li14P6S22")
    references = fit_references(frames, [42.0, 84.0])
    counts = np.array([7.0, 3.0, 11.0])
    assert list(references.energies.values()) == pytest.approx(42.0 * counts / (counts @ counts))
    assert references.rank == 1
    assert references.undetermined_elements == (LI, P, S)
    for direction in references.undetermined:
        assert sum(counts[(LI, P, S).index(z)] * c for z, c in direction.items()) == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(list(references.standard_errors.values())).all()
    assert "energies of Li, P and S are not determined" in references.message()
    assert "one composition Li7P3S11" in references.message()


def test_elements_in_a_fixed_ratio_are_named_and_the_others_are_determined() -> None:
    frames = numbers("Li3P", "Li6P2S", "Li3PS4", "S8", "Li9P3S2")
    references = fit_references(frames, differences(frames))
    assert references.rank == 2
    assert references.undetermined_elements == (LI, P)
    assert references.energies[S] == pytest.approx(TRUE[S], abs=1e-12)
    assert references.standard_errors[S] == pytest.approx(0.0, abs=1e-10)
    together = 3 * TRUE[LI] + TRUE[P]
    assert references.energies[LI] == pytest.approx(0.3 * together)
    assert references.energies[P] == pytest.approx(0.1 * together)
    assert "energies of Li and P are not determined" in references.message()
    assert "Li and P always come 3:1" in references.message()


def test_a_hidden_dependence_is_told_by_its_rank() -> None:
    # each frame is a mixture of Li2S and P2S5, no two elements in a fixed ratio
    frames = numbers("Li2S", "P2S5", "Li2P2S6", "Li4P2S7")
    references = fit_references(frames, differences(frames))
    assert references.rank == 2
    assert references.undetermined_elements == (LI, P, S)
    assert "only 2 independent compositions" in references.message()
    assert [references.of(frame) for frame in frames] == pytest.approx(differences(frames))


def test_a_single_element_is_determined_by_one_composition() -> None:
    references = fit_references(numbers("Li16", "Li2"), [32.0, 4.0])
    assert references.energies == pytest.approx({LI: 2.0})
    assert references.undetermined == ()


def test_unknown_energies_are_dropped() -> None:
    frames = numbers(*FORMULAS)
    d = differences(frames)
    d[1] = np.nan
    references = fit_references(frames, d)
    assert references.energies == pytest.approx(TRUE, abs=1e-12)
    assert references.frames == 5


def test_an_element_without_energy_stays_at_zero_and_is_named() -> None:
    frames = numbers("Li2S", "S8", "Li3P")
    references = fit_references(frames, [*differences(frames[:2]), np.nan])
    assert references.energies == pytest.approx({LI: TRUE[LI], P: 0.0, S: TRUE[S]}, abs=1e-12)
    assert references.undetermined_elements == (P,)
    assert "no frame with an energy contains P" in references.message()


@pytest.mark.parametrize("frames", [[], ["Li2S", "Li3P"]])
def test_without_energies_the_references_are_zero_and_say_so(frames: list[str]) -> None:
    references = fit_references(numbers(*frames), np.full(len(frames), np.nan))
    assert set(references.energies.values()) <= {0.0}
    assert references.rank == 0
    assert np.isnan(references.rms)
    assert "no frame has an energy" in references.message()


def test_an_element_that_was_not_fitted_counts_nothing() -> None:
    assert fit_references(numbers("Li2"), [4.0]).of(np.array([LI, 79])) == pytest.approx(2.0)


def test_alignment_takes_out_an_energy_zero_of_each_element_exactly() -> None:
    frames = numbers(*FORMULAS)
    aligned = align(frames, differences(frames), FORMULAS)
    assert aligned.shift == pytest.approx(differences(frames))
    assert aligned.by_frame == 0
    assert "leave one group out" in aligned.message()


def test_the_shift_of_a_group_does_not_depend_on_its_own_labels() -> None:
    frames = numbers(*FORMULAS, "Li2S")
    group = [*FORMULAS, "Li2S"]
    d = differences(frames)
    before = align(frames, d, group).shift
    d[[1, 6]] += 3.0  # both frames of the group Li2S
    after = align(frames, d, group).shift
    assert after[[1, 6]] == pytest.approx(before[[1, 6]])
    assert not np.allclose(after, before)


def test_a_shift_fitted_to_other_frames_does_not_flatter() -> None:
    """Of noise sigma on N compositions a fit with p elements leaves sigma² (1 - p/N), held out at least sigma²."""
    rng = np.random.default_rng(0)
    frames = [np.repeat([LI, P, S], rng.integers(1, 9, 3)) for _ in range(8)]
    n = np.array([len(frame) for frame in frames])
    held_out, own = [], []
    for _ in range(400):
        noise = rng.normal(size=8) * n  # 1 eV/atom
        held_out.append((noise - align(frames, noise, list("abcdefgh")).shift) / n)
        fitted = fit_references(frames, noise)
        own.append((noise - [fitted.of(frame) for frame in frames]) / n)
    assert np.mean(np.square(own)) == pytest.approx(1 - 3 / 8, abs=0.05)
    assert np.mean(np.square(held_out)) > 1.0


def test_a_composition_that_other_groups_do_not_determine_is_aligned_within_its_group_or_not_at_all() -> None:
    frames = numbers("Li2", "Li4", "Li2S", "Li4S2", "P4")
    aligned = align(frames, differences(frames), ["Li", "Li", "Li2S", "Li2S", "P"])
    assert aligned.by_frame == 4  # Li alone leaves S open, and Li2S alone leaves Li open
    assert aligned.shift[:4] == pytest.approx(differences(frames)[:4])
    assert np.isnan(aligned.shift[4])  # nothing else has P
    assert "1 of 5 frames" in aligned.message()


def test_frames_without_energy_are_aligned_but_not_learned_from() -> None:
    frames = numbers(*FORMULAS)
    d = differences(frames)
    d[3] = np.nan
    assert align(frames, d, FORMULAS).shift == pytest.approx(differences(frames))


def test_references_of_other_frames_align_the_compositions_that_they_determine() -> None:
    fitted = fit_references(numbers("Li3P", "Li6P2S"), differences(numbers("Li3P", "Li6P2S")))
    frames = numbers("Li3PS4", "Li2S", "Au")
    aligned = align_by(fitted, frames, "2 frames of train.extxyz")
    assert aligned.shift[0] == pytest.approx(differences(frames[:1])[0])
    assert np.isnan(aligned.shift[1:]).all()
    assert "train.extxyz" in aligned.message()
