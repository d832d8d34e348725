"""Which candidates DFT is to label: pure functions of scores, features and a random generator to indices.

Rows of `features` are candidates, scaled so that two of them are about 1 apart; `taken` are those of frames that have
labels already. All functions give each index once, in the order of choice.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from jaxtyping import Float
from scipy.spatial.distance import cdist, pdist, squareform

from finetune.sampling.diversity import farthest

Features = Float[np.ndarray, "candidates d"]
Taken = Float[np.ndarray, "taken d"]
Scores = Float[np.ndarray, " candidates"]
SWAP = 1.01  # a swap must make the volume larger by this factor, so that MaxVol ends
RIDGE = 1e-3  # of the mean squared feature: what is known of a direction without any label


def random_choice(candidates: int, budget: int, rng: np.random.Generator) -> list[int]:
    """Indices drawn at random, all alike."""
    return [int(k) for k in rng.choice(candidates, min(budget, candidates), replace=False)]


def top(scores: Scores, budget: int) -> list[int]:
    """Indices of the highest scores, the highest first."""
    return [int(k) for k in np.argsort(-scores, kind="stable")[:budget]]


def distances_to(features: Features, taken: Taken) -> Scores:
    """Distance of each candidate to the nearest frame that is taken; infinity where there is none."""
    return cdist(features, taken).min(axis=1) if len(taken) else np.full(len(features), np.inf)


def fresh(features: Features, taken: Taken, apart: float) -> list[int]:
    """Indices of candidates that are `apart` or more from what is taken and from all of lower index that are kept."""
    nearest = distances_to(features, taken)
    kept: list[int] = []
    for k in range(len(features)):
        if nearest[k] >= apart:
            kept.append(k)
            nearest = np.minimum(nearest, np.linalg.norm(features - features[k], axis=1))
    return kept


def farthest_points(features: Features, budget: int, taken: Taken) -> list[int]:
    """Each the farthest from all taken before (Gonzalez, 10.1016/0304-3975(85)90224-5)."""
    return farthest(features, min(budget, len(features)), taken)


def maxvol(features: Features, budget: int, taken: Taken) -> list[int]:
    """The rows that span the largest volume, in the metric of what the taken rows leave unknown (D-optimality).

    With A = ridge + sum over taken of f f', rows are f A^-1/2, reduced to their first `budget` principal components.
    Pivoted QR finds a start, swaps enlarge the volume (Goreinov et al., 10.1142/9789812836021_0015). Beyond the rank of
    the rows, the rest is filled up by farthest points.
    """
    budget = min(budget, len(features))
    if not budget:
        return []
    known = RIDGE * max(float(np.square(features).mean()), 1e-300) * np.eye(features.shape[1]) + taken.T @ taken
    rows = scipy.linalg.solve_triangular(np.linalg.cholesky(known), features.T, lower=True).T
    left, sizes, _ = np.linalg.svd(rows, full_matrices=False)
    width = min(budget, int((sizes > 1e-10 * max(float(sizes[0]), 1e-300)).sum()))
    reduced = left[:, :width] * sizes[:width]
    chosen = _largest_volume(reduced) if width else []
    if len(chosen) < budget:
        rest = [k for k in range(len(features)) if k not in set(chosen)]
        more = farthest(features[rest], budget - len(chosen), np.concatenate([taken, features[chosen]]))
        chosen += [rest[k] for k in more]
    return chosen


def _largest_volume(rows: Features) -> list[int]:
    """As many rows as there are columns, such that no single swap makes the determinant larger."""
    chosen = scipy.linalg.qr(rows.T, mode="r", pivoting=True)[1][: rows.shape[1]]
    while True:
        share = rows @ np.linalg.inv(rows[chosen])  # replacing chosen[j] by i multiplies the volume by |share[i, j]|
        i, j = np.unravel_index(int(np.abs(share).argmax()), share.shape)
        if abs(share[i, j]) <= SWAP:
            return [int(k) for k in chosen]
        chosen[j] = i


def kernel(features: Features, scores: Scores) -> Float[np.ndarray, "candidates candidates"]:
    """L_ij = q_i exp(-d_ij² / 2 m²) q_j, with the score over its largest as quality q, m the median distance."""
    quality = scores / max(float(scores.max(initial=0.0)), 1e-300)
    between = pdist(features)
    scale = float(np.median(between)) if len(between) and np.median(between) > 0 else 1.0
    alike = np.exp(-np.square(squareform(between)) / (2 * scale**2)) if len(features) > 1 else np.ones((1, 1))
    return quality[:, None] * alike * quality


def kdpp(likelihood: Float[np.ndarray, "candidates candidates"], budget: int, rng: np.random.Generator) -> list[int]:
    """A sample of a k-determinantal point process: sets of `budget` with probability proportional to det(L of the set).

    Kulesza and Taskar, arXiv 1207.6083, algorithms 1, 7 and 8.
    """
    values, vectors = np.linalg.eigh(likelihood)
    values = np.where(values > 1e-12 * max(float(values.max(initial=0.0)), 1e-300), values, 0.0)
    budget = min(budget, int((values > 0).sum()))
    chosen: list[int] = []
    basis = vectors[:, _eigenvectors(values, budget, rng)]
    while basis.shape[1]:
        weights = np.square(basis).sum(axis=1)
        k = int(rng.choice(len(weights), p=weights / weights.sum()))
        chosen.append(k)
        pivot = int(np.abs(basis[k]).argmax())  # make every vector but one vanish at k, and drop that one
        basis = np.delete(basis - np.outer(basis[:, pivot], basis[k] / basis[k, pivot]), pivot, axis=1)
        basis = np.linalg.qr(basis)[0]
    return chosen


def _eigenvectors(values: np.ndarray, budget: int, rng: np.random.Generator) -> list[int]:
    """Which eigenvectors a sample is made of, by elementary symmetric polynomials of the eigenvalues."""
    values = values / max(float(values.max(initial=0.0)), 1e-300)
    polynomials = np.zeros((budget + 1, len(values) + 1))
    polynomials[0] = 1.0
    for size in range(1, budget + 1):
        for n in range(1, len(values) + 1):
            polynomials[size, n] = polynomials[size, n - 1] + values[n - 1] * polynomials[size - 1, n - 1]
    found: list[int] = []
    left = budget
    for n in range(len(values), 0, -1):
        if left and rng.random() < values[n - 1] * polynomials[left - 1, n - 1] / polynomials[left, n]:
            found.append(n - 1)
            left -= 1
    return found


def batch(
    scores: Scores,
    features: Features,
    front: Scores,
    budget: int,
    taken: Taken,
    powers: tuple[float, float, float] = (1.0, 1.0, 1.0),
    runs: np.ndarray | None = None,
    most: int = 1,
) -> list[int]:
    """One after the other the candidate with the largest uncertainty x distance x closeness to the reaction front.

    Args:
        scores: uncertainty, 0 or more.
        features: of the candidates.
        front: closeness to the reaction front, 0 to 1; it counts as (1 + front) / 2, so that nothing is shut out.
        budget: how many.
        taken: features of labelled frames; distances are to these and to those chosen before.
        powers: of the three factors.
        runs: what each candidate comes from, shape (candidates,); None: each from a run of its own.
        most: of one run, while other runs have candidates left.
    """
    runs = np.arange(len(features)) if runs is None else runs
    nearest = distances_to(features, taken)
    if not len(taken):
        nearest = np.ones(len(features))
    fixed = np.power(np.maximum(scores, 0.0), powers[0]) * np.power((1 + front) / 2, powers[2])
    chosen: list[int] = []
    for _ in range(min(budget, len(features))):
        values = fixed * np.power(nearest, powers[1])
        names, counts = np.unique(runs[chosen], return_counts=True)
        spent = np.isin(runs, names[counts >= most])
        spent[chosen] = True
        if not spent.all():
            values[spent] = -1.0
        values[chosen] = -1.0
        k = int(values.argmax())
        to_chosen = np.linalg.norm(features - features[k], axis=1)
        nearest = np.minimum(nearest, to_chosen) if chosen or len(taken) else to_chosen
        chosen.append(k)
    return chosen
