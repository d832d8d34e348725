"""Energies against a potential: the energy zero of each element, the rank of the compositions, mixed DFT settings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from finetune.data.frames import Frame
from finetune.doctor.findings import Finding, Verdict, short, some
from finetune.evaluation import Evaluation
from finetune.references import compositions, fit_references

UNSURE = 0.1  # eV, standard error of an element's reference energy beyond which the data hardly tell it
LEAST = 6  # frames that one of two settings has, or a tenth of all
ROUNDS = 50  # of assignment and fit
STARTS = 20  # random halves to start from
MIXED = 3.0  # rms of one fit over rms of two from which settings are mixed, or, where two are worth a look,
MILES = 0.5  # eV/atom between them
PERHAPS = {"known": 2.0, "free": 2.5}  # the same, worth a look; clean data have 1.0 to 1.8 by file, 2.2 to 2.7 freely
APART = 0.2  # eV/atom between two settings; less is within what potentials get wrong, 0.16 between families


def composition_rank(frames: Sequence[Frame]) -> Finding:
    """Whether the compositions of frames with an energy determine the reference energy of each element."""
    check = "compositions"
    known = [frame for frame in frames if "energy" in frame.given]
    if not known:
        return Finding(check, "skipped", "no frame has an energy")
    fit = fit_references([frame.atoms.numbers for frame in known], np.zeros(len(known)))
    elements = len(fit.energies)
    formulas = {frame.atoms.symbols.formula.reduce()[0].format("metal") for frame in known}
    words = f"{len(formulas)} compositions, {fit.rank} of them independent, of {elements} elements"
    if fit.rank == elements:
        return Finding(check, "good", words)
    why = "; ".join(fit.reasons) or "some elements always come together"
    remedy = "add a few frames of other compositions, best of the elements and of both phases alone"
    if fit.rank == 1:
        words = f"{why}: no energy per element can be told, and energies of all other compositions are arbitrary"
        return Finding(check, "fault", words, remedy)
    names = some(chemical_symbols[z] for z in fit.undetermined_elements)
    return Finding(check, "warning", f"{words}; the energies of {names} are not determined, because {why}", remedy)


def energy_zero(evaluation: Evaluation) -> Finding:
    """Energy of the labels minus that of the potential, per element, with standard errors."""
    check = "energy zero"
    fit = fit_references([frame.atoms.numbers for frame in evaluation.frames], _difference(evaluation))
    if not fit.frames:
        return Finding(check, "skipped", "no frame has an energy")
    parts = [
        f"{chemical_symbols[z]} {value:+.3f}" + (f" ± {error:.3f}" if math.isfinite(error) else "")
        for (z, value), error in zip(fit.energies.items(), fit.standard_errors.values(), strict=True)
    ]
    words = f"labels minus potential, eV/atom: {', '.join(parts)}; {1e3 * fit.rms:.0f} meV/atom rms is left"
    unsure = [chemical_symbols[z] for z, error in fit.standard_errors.items() if error > UNSURE]
    if unsure:
        remedy = f"add frames in which the share of {some(unsure)} varies more"
        return Finding(check, "warning", words, remedy)
    return Finding(check, "good", f"{words}; a fit takes the zero out by itself")


@dataclass(frozen=True)
class _Two:
    """Frames divided among two sets of reference energies."""

    first: np.ndarray  # the frames of the smaller part
    gain: float  # rms of one fit over that of two
    apart: float  # rms difference of the two over all compositions, eV/atom
    where: str  # which frames these are

    def verdict(self, least: float) -> Verdict:
        """Whether the two are two methods, or within the error of the potential."""
        if self.gain < least or self.apart < APART:
            return "good"
        return "fault" if self.gain > MIXED or self.apart > MILES else "warning"


def mixed_energies(evaluation: Evaluation) -> Finding:
    """Whether two sets of reference energies explain the energies far better than one, as those of two methods do.

    Each file and each family is tried against the rest, then any division of the frames: least squares with two sets,
    each frame with the one that fits it better, from several starts.
    """
    check = "one energy zero"
    difference = _difference(evaluation)
    use = np.flatnonzero(np.isfinite(difference))
    if len(use) < 4 * LEAST:
        return Finding(check, "skipped", f"{len(use)} frames with an energy cannot tell; it takes {4 * LEAST}")
    frames = [evaluation.frames[int(i)] for i in use]
    _, counts = compositions([frame.atoms.numbers for frame in frames])
    n = counts.sum(axis=1)
    x, y = counts / n[:, None], difference[use] / n
    known = [two for where, part in _parts(frames).items() if (two := _two(x, y, part, where))]
    free = _divide(x, y, [two.first for two in known])
    found = [(two.verdict(PERHAPS["known"]), two.gain, two) for two in known]
    found += [(two.verdict(PERHAPS["free"]), 0.0, two) for two in free]
    found.sort(key=lambda item: (("good", "warning", "fault").index(item[0]), item[1]))
    if not found or found[-1][0] == "good":
        return Finding(check, "good", "one energy per element fits all frames; no file, family or other part is off")
    verdict, _, two = found[-1]
    words = (
        f"two sets of energies per element fit {two.gain:.1f} times better than one: {two.first.sum()} of "
        f"{len(frames)} frames ({two.where}) are {1e3 * two.apart:.0f} meV/atom off the others"
    )
    remedy = "look whether these frames have other DFT settings, functional, or energy (free or extrapolated); relabel"
    return Finding(check, verdict, words, remedy)


def _difference(evaluation: Evaluation) -> np.ndarray:
    """Energy of the labels minus that of the potential, eV."""
    return (evaluation.labels.energy - evaluation.predicted.energy).numpy()


def _parts(frames: Sequence[Frame]) -> dict[str, np.ndarray]:
    """The frames of each file and of each family."""
    parts: dict[str, np.ndarray] = {}
    for kind, word in (("source", "file"), ("family", "family")):
        names = np.array([getattr(frame, kind) for frame in frames], dtype=object)
        parts |= {f"{word} {short(name)}": names == name for name in sorted(set(names))}
    return parts


def _two(x: np.ndarray, y: np.ndarray, part: np.ndarray, where: str) -> _Two | None:
    """A fit for a part and one for the rest; None where one of them has too few frames."""
    if min(part.sum(), len(y) - part.sum()) < max(LEAST, len(y) // 10, 2 * x.shape[1]):
        return None
    one, two = _fits(x, y, part)
    single = _rms(y - x @ np.linalg.lstsq(x, y, rcond=1e-8)[0])
    left = max(_rms(np.where(part, y - one, y - two)), 1e-9)
    return _Two(part if 2 * part.sum() <= len(y) else ~part, single / left, _rms(one - two), where)


def _divide(x: np.ndarray, y: np.ndarray, starts: list[np.ndarray]) -> list[_Two]:
    """The division of frames among two fits that leaves least, if any has enough frames on both sides."""
    rng = np.random.default_rng(0)
    found = []
    for part in [*starts, *(rng.random(len(y)) < 0.5 for _ in range(STARTS))]:
        for _ in range(ROUNDS):
            two = _two(x, y, part, "of several files and families")
            if two is None:
                break
            found.append(two)
            one, other = _fits(x, y, part)
            nearer = np.abs(y - one) < np.abs(y - other)
            if (nearer == part).all():
                break
            part = nearer
    return sorted(found, key=lambda two: two.gain)[-1:]


def _fits(x: np.ndarray, y: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions for all frames by the least-squares fit of a part, and by that of the rest."""
    first, rest = (x @ np.linalg.lstsq(x[side], y[side], rcond=1e-8)[0] for side in (part, ~part))
    return first, rest


def _rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt((values**2).mean()))
