"""Self-diffusion coefficient from displacements, with the start of the diffusive regime found from the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.linalg import pinvh
from scipy.stats import chi2, truncnorm

from finetune.comparison.displacements import Floats, Moments, moments_of
from finetune.errors import InputError

WINDOW = 3.0  # a local slope is taken over lags from t to 3 t
ERRORS = 2.0  # standard errors within which two slopes agree
EXPONENT = 0.25  # largest distance of the log-log slope from 1: the cage keeps it below 1 long after the line began
FALLEN = 0.8  # share of its maximum below which the non-Gaussian parameter has fallen
GAUSSIAN = 0.2  # non-Gaussian parameter of displacements that count as Gaussian
CHOSEN = 1.2  # factor on the standard error, as the same data choose the start: without it 88 % of intervals cover
DRAWS = 4000  # of the posterior
MISSED = 3.0  # events that are missed with a probability of 5 % (Poisson)


@dataclass(frozen=True)
class Diffusivity:
    """A self-diffusion coefficient, or an upper bound of it.

    Attributes:
        value: median of the posterior, Å²/ps; NaN where only a bound is known.
        low: lower end of the 95 % interval, Å²/ps; 0 for a bound.
        high: upper end, or the upper bound at 95 % confidence; infinite where the run is too short for a bound.
        start_ps: start of the diffusive regime, ps; NaN without one.
        exponent: log-log slope of the mean squared displacement at the longest lags (1 for diffusion).
        exponent_error: its standard error.
        reason: why there is no value, in plain words; empty where there is one.
        draws: of the posterior, Å²/ps; empty where there is no value.
        lags_ps: time differences, ps.
        squares: mean squared displacements, Å².
        errors: their standard errors, Å².
        non_gaussian: non-Gaussian parameter at each lag, d <r⁴> / ((d + 2) <r²>²) - 1.
    """

    value: float
    low: float
    high: float
    start_ps: float
    exponent: float
    exponent_error: float
    reason: str
    draws: Floats = field(repr=False)
    lags_ps: Floats = field(repr=False)
    squares: Floats = field(repr=False)
    errors: Floats = field(repr=False)
    non_gaussian: Floats = field(repr=False)


def estimate_diffusivity(displacements: Floats, frame_ps: float, hop: float = 2.0, seed: int = 0) -> Diffusivity:
    """Estimate a self-diffusion coefficient where displacements are diffusive, else bound it.

    The diffusive regime begins at the first lag t from which on

    - the log-log slope of the mean squared displacement over t to 3 t is 1 within two standard errors or 0.25,
    - its linear slope over t to 3 t is that of the lags behind, up to 9 t and to the end, within two standard errors,
    - the non-Gaussian parameter is below 0.2, or past its maximum and below 0.8 of it;

    as the relaxation of the cage is seen only when it exceeds the noise, the regime is used from 3 t. Errors of slopes
    are from a jackknife over atoms and axes. In the regime, kinisi's covariance of the mean squared displacements
    (McCluskey et al., J. Chem. Theory Comput. 21, 79, 2025) gives the posterior of slope and intercept under the
    condition that the slope is positive; it is a truncated normal distribution, which kinisi samples by a Markov chain
    and which is drawn exactly here. Variances that enter are those of the fitted line: Gaussian, and an excess by
    single hops. The standard error is widened by a fifth, since the same data choose the start.

    Without such a regime, or if the root mean squared displacement by diffusion in the whole run is less than `hop`, an
    upper bound at 95 % confidence is returned: the mean squared displacement at the longest lag over 2 d t, which is
    above the diffusivity wherever displacements are slowed down by cages, and three hops that could have been missed.

    Args:
        displacements: unwrapped, without drift, shape (frames, atoms, d), Å. See `unwrap`.
        frame_ps: time between two frames, ps.
        hop: shortest distance between two sites, Å.
        seed: of the draws.

    Returns:
        The estimate or the bound, with the reason.

    Raises:
        InputError: an array of another shape, too few frames, or numbers that are not finite.
    """
    displacements = np.asarray(displacements, dtype=float)
    if displacements.ndim != 3 or len(displacements) < 3 or 0 in displacements.shape:
        shape = displacements.shape
        raise InputError(
            f"displacements: got shape {shape}, expected (frames, atoms, dimensions) with 3 frames or more."
        )
    if not np.isfinite(displacements).all() or not frame_ps > 0:
        raise InputError("displacements: got numbers that are not finite or a frame spacing that is not positive.")
    moments = moments_of(displacements, frame_ps)
    run_ps = (len(displacements) - 1) * frame_ps
    if not (moments.squares > 0).all():
        return _bound(moments, run_ps, hop, (math.nan, math.inf), "nothing moves")
    windows = _windows(moments.lags_ps)
    if len(windows) < 3:
        return _bound(moments, run_ps, hop, (math.nan, math.inf), f"{len(displacements)} frames are too few")
    exponents = [_exponent(moments, window) for window in windows]
    start, reason = _regime(moments, windows, exponents)
    if start is None:
        return _bound(moments, run_ps, hop, exponents[-1], reason)
    slope, error = _line(moments, start)
    error *= CHOSEN
    if slope <= 2 * error or slope * run_ps < hop**2:
        far = math.sqrt(max(slope, 0.0) * run_ps)
        reason = f"displaced by {far:.1f} Å in {run_ps:.3g} ps, which is less than a hop of {hop:g} Å"
        return _bound(moments, run_ps, hop, exponents[-1], reason)
    posterior = truncnorm(-slope / error, np.inf, slope, error)
    scale = 2 * moments.dimension
    low, middle, high = posterior.ppf([0.025, 0.5, 0.975]) / scale
    draws = posterior.rvs(DRAWS, random_state=np.random.default_rng(seed)) / scale
    began = float(moments.lags_ps[start])
    return _result(moments, (float(middle), float(low), float(high)), began, exponents[-1], "", draws)


def _windows(lags_ps: Floats) -> list[slice]:
    """The lags from t to 3 t, for each t that has three or more of them."""
    found = []
    for first, lag in enumerate(lags_ps):
        end = int(np.searchsorted(lags_ps, WINDOW * lag * 1.0001))
        if WINDOW * lag <= lags_ps[-1] * 1.0001 and end - first >= 3:
            found.append(slice(first, end))
    return found


def _slope(x: Floats, y: Floats) -> Floats:
    """Slopes of least squares of the columns of y against x."""
    weights = x - x.mean()
    slopes: Floats = weights @ y / (weights @ weights)
    return slopes


def _exponent(moments: Moments, window: slice) -> tuple[float, float]:
    lags = np.log(moments.lags_ps[window])
    return moments.estimate(lambda squares: _slope(lags, np.log(squares[window])))


def _regime(
    moments: Moments, windows: Sequence[slice], exponents: Sequence[tuple[float, float]]
) -> tuple[int | None, str]:
    """Index of the lag where the diffusive regime begins; None with the reason where there is none."""
    lags, last, error = moments.lags_ps, *exponents[-1]
    diffusive = [abs(value - 1) <= max(EXPONENT, ERRORS * spread) for value, spread in exponents]
    what = f"the log-log slope of the mean squared displacement is {last:.2f} ± {error:.2f} up to {lags[-1]:.3g} ps"
    if not diffusive[-1] or last - ERRORS * error < 0.4:
        return None, f"{what}; diffusion has 1"
    peak = int(np.argmax(moments.non_gaussian))
    start = None
    for window, is_diffusive in zip(reversed(windows), reversed(diffusive), strict=True):
        if not is_diffusive:
            break
        first = window.start
        parameter = moments.non_gaussian[first] - moments.non_gaussian_errors[first]
        fallen = parameter <= GAUSSIAN or (first >= peak and parameter <= FALLEN * moments.non_gaussian[peak])
        if fallen and _is_straight(moments, window):
            start = first
    if start is None:
        return None, "the slope of the mean squared displacement still changes, or single hops decide it"
    margin = int(np.searchsorted(lags, WINDOW * lags[start] * 0.9999))
    return min(margin, windows[-1].start), ""


def _is_straight(moments: Moments, window: slice) -> bool:
    """Whether the linear slope in a window is that of the lags behind it."""
    lags = moments.lags_ps
    near = int(np.searchsorted(lags, WINDOW**2 * lags[window.start] * 1.0001))
    for end in {near, len(lags)}:
        behind = slice(window.stop - 1, end)
        if end - behind.start < 3:
            continue
        change, error = moments.estimate(
            lambda m, b=behind: _slope(lags[window], m[window]) - _slope(lags[b], m[b])  # type: ignore[misc]
        )
        if abs(change) > ERRORS * error:
            return False
    return True


def _line(moments: Moments, start: int) -> tuple[float, float]:
    """Slope, Å²/ps, of the mean squared displacement from a lag on, and its error, with kinisi's covariance."""
    used = slice(start, None)
    lags, squares = moments.lags_ps[used], moments.squares[used]
    design = np.stack([lags, np.ones_like(lags)], axis=1)
    excess = (moments.variances[used] - 2 / moments.dimension * squares**2) / lags  # single hops: grows with the lag
    hops = max(0.0, float(excess.mean()))
    fitted = squares
    slope, error = math.nan, math.inf
    for _ in range(2):  # measured values would give low ones more weight
        variances = 2 / moments.dimension * fitted**2 + hops * lags
        precision = pinvh(_covariance(lags, squares, variances / moments.independent[used], moments.independent[used]))
        spread = np.linalg.inv(design.T @ precision @ design)
        line = spread @ design.T @ precision @ squares
        slope, error = float(line[0]), float(np.sqrt(spread[0, 0]))
        fitted = np.maximum(design @ line, 0.1 * squares)
    return slope, error


def _covariance(lags: Floats, squares: Floats, variances: Floats, independent: Floats) -> Floats:
    """Covariance of mean squared displacements by kinisi, Å⁴."""
    import scipp
    from kinisi.diffusion import Diffusion

    lag = "time interval"
    values = scipp.array(dims=[lag], values=squares, variances=variances, unit="angstrom**2")
    coordinates = {
        lag: scipp.array(dims=[lag], values=lags, unit="ps"),
        "n_samples": scipp.array(dims=[lag], values=independent),
    }
    group: Any = scipp.DataGroup({"da": scipp.DataArray(values, coords=coordinates), "dimensionality": scipp.scalar(3)})
    fit = Diffusion(group)
    fit.bayesian_regression(scipp.scalar(float(lags[0]), unit="ps"), n_samples=1, n_burn=0, n_thin=1, progress=False)
    covariance: Floats = fit.covariance_matrix.values
    return covariance


def _bound(moments: Moments, run_ps: float, hop: float, exponent: tuple[float, float], reason: str) -> Diffusivity:
    """The upper bound from the longest lag."""
    lag, square = float(moments.lags_ps[-1]), float(moments.squares[-1])
    scale = 2 * moments.dimension
    atoms = moments.independent[-1] * lag / run_ps
    high = MISSED * hop**2 / (scale * atoms * run_ps)
    if square > 0:
        value, error = exponent
        if not value <= 1 + max(EXPONENT, ERRORS * error if math.isfinite(error) else 0.0):
            reason += "; displacements still speed up or the run has too few lags, so there is no bound either"
            return _result(moments, (math.nan, 0.0, math.inf), math.nan, exponent, reason, np.empty(0))
        variance = max(float(moments.variances[-1]), 2 / moments.dimension * square**2) / moments.independent[-1]
        freedom = 2 * square**2 / variance
        high += square * freedom / float(chi2.ppf(0.05, freedom)) / (scale * lag)
    return _result(moments, (math.nan, 0.0, float(high)), math.nan, exponent, reason, np.empty(0))


def _result(
    moments: Moments,
    interval: tuple[float, float, float],
    start_ps: float,
    exponent: tuple[float, float],
    reason: str,
    draws: Floats,
) -> Diffusivity:
    return Diffusivity(
        value=interval[0],
        low=interval[1],
        high=interval[2],
        start_ps=start_ps,
        exponent=exponent[0],
        exponent_error=exponent[1],
        reason=reason,
        draws=draws,
        lags_ps=moments.lags_ps,
        squares=moments.squares,
        errors=np.sqrt(moments.variances / moments.independent),
        non_gaussian=moments.non_gaussian,
    )
