"""Verdicts: distances of figures from a reference, in units of its own uncertainty or of the floor."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from finetune.comparison.figures import Figure, Measured, Tolerance

NEAR, MIDDLE = 3.0, 10.0  # times DFT's own uncertainty, or the floor where that is larger


ROUNDING = 1e-3  # share of DFT's own uncertainty; smaller differences are rounding in single precision and in files


ORDER = ("told", "same", "within", "near", "off", "beyond")


SAME = "not distinguishable"


TOO_SHORT = "too short for a verdict"


@dataclass(frozen=True)
class Judged:
    """A figure beside the reference.

    Attributes:
        figure: the figure.
        reference: DFT's value, or the target; None where neither is known.
        ratio: distance from it over DFT's own uncertainty or the floor, the larger of both; NaN where it is not judged,
            infinite where the figure is not available.
        strict: it passes or fails, and its distance means nothing.
        same: it is not distinguishable from the reference: the difference is below the floor, or both have no value.
        short: why the measurement is too short for a verdict.
    """

    figure: Figure
    reference: float | None
    ratio: float
    strict: bool = False
    same: bool = False
    short: str = ""

    @property
    def word(self) -> str:
        """Its class, see `class_of`."""
        return "same" if self.same and not math.isnan(self.ratio) else class_of(self.ratio, self.strict)

    @property
    def lacking(self) -> bool:
        """Whether there should be a number and is none."""
        return not math.isnan(self.ratio) and not math.isfinite(self.figure.value)


@dataclass(frozen=True)
class Verdict:
    """A cell in a few words.

    Attributes:
        word: `same` (not distinguishable), `within`, `near`, `off`, `beyond`, `told` (no verdict), `failed` or `none`.
        brief: its text in the matrix, such as a distance.
        detail: the figure that decides, or the reason.
    """

    word: str
    brief: str = ""
    detail: str = ""


def judge(
    figures: Sequence[Figure],
    reference: Measured | None,
    tolerances: Mapping[str, Tolerance],
    strict: Collection[str] = (),
) -> list[Judged]:
    """Each figure's distance from the reference, in units of DFT's own uncertainty or of the floor, the larger of both.

    Args:
        figures: of one cell; their intervals are widened for their number, see `Figure.margin`.
        reference: figures of the reference column; None without one.
        tolerances: DFT's own uncertainty by quantity; a quantity without one is not judged.
        strict: quantities that pass or fail.
    """
    known = reference.by_name() if reference is not None else {}
    compared = max(1, sum(figure.noisy and figure.kind in tolerances for figure in figures))
    return [
        _judge_one(figure, known.get(figure.name), tolerances.get(figure.kind), figure.kind in strict, compared)
        for figure in figures
    ]


def _judge_one(
    figure: Figure, known: Figure | None, tolerance: Tolerance | None, strict: bool, compared: int
) -> Judged:
    other = known.value if known is not None and math.isfinite(known.value) else None
    target = tolerance.target if tolerance is not None else None
    wanted = other if target is None else target
    if known is not None and other is None and not math.isfinite(figure.value):  # missing in both, which is alike
        return Judged(figure, wanted, math.nan, strict, same=True)
    if wanted is None:
        return Judged(figure, wanted, math.nan, strict)
    if not math.isfinite(figure.value):
        return Judged(figure, wanted, math.nan if tolerance is None else math.inf, strict)
    short = figure.short or (known.short if known is not None else "")
    limit = tolerance.of(wanted) if tolerance is not None else 0.0
    # what passes or fails by a target is certain: a potential without a hole never shows one
    beside = [(other, [figure, known])] if other is not None else []
    beside += [(target, [figure])] if target is not None and not strict else []
    for number, sides in beside:
        distance = abs(figure.value - number)
        rounding = max(ROUNDING * limit, 1e-9 * abs(number))
        noise = _noise(sides, figure.value, number, compared)
        if distance <= rounding or (distance <= noise and not short):
            ratio = math.nan if tolerance is None else distance / max(limit, noise, rounding) if distance else 0.0
            return Judged(figure, wanted, ratio, strict, same=True)
    if tolerance is None or short:
        return Judged(figure, wanted, math.nan, strict, short=short if tolerance is not None else "")
    distance = abs(figure.value - wanted)
    sides = [figure] if target is not None else [figure, known]
    largest = limit if strict else max(limit, _noise(sides, figure.value, wanted, compared))
    return Judged(figure, wanted, distance / largest if largest > 0 else math.inf if distance else 0.0, strict)


def _noise(sides: Sequence[Figure | None], value: float, other: float, compared: int) -> float:
    """Difference that the same thing measured twice shows: the figure's towards the reference and the other way round.

    The root of the sum of squares of the two halves of the intervals that face each other is the interval of a
    difference (method 10 of Newcombe, Stat. Med. 17, 873, 1998).
    """
    figure, known = sides[0], sides[1] if len(sides) > 1 else None
    own = figure.margin(other, compared) if figure is not None else 0.0
    return math.hypot(own, known.margin(value, compared) if known is not None else 0.0)


def worst(judged: Sequence[Judged]) -> Judged | None:
    """The figure that is farthest from the reference; None where no distance is judged."""
    ranked = [one for one in judged if not (math.isnan(one.ratio) or one.strict or one.lacking)]
    return max(ranked, key=lambda one: (ORDER.index(one.word), one.ratio)) if ranked else None


def overall(judged: Sequence[Judged], lacking: str = "without a number") -> Verdict:
    """The verdict on all figures of a cell: the worst distance, how many fail, and how many are missing.

    Args:
        judged: the figures beside the reference.
        lacking: description of a subject that has no figure.
    """
    known = [one for one in judged if not math.isnan(one.ratio)]
    word = max((one.word for one in known), key=ORDER.index, default="told")
    reason = next((one.short for one in judged if one.short), "")
    if reason and ORDER.index(word) <= ORDER.index("within"):
        return Verdict("told", TOO_SHORT, reason)
    beside = [one for one in judged if one.same or one.reference is not None]
    if not known:
        return Verdict("same", SAME) if beside and all(one.same for one in beside) else Verdict("told", "–")
    if word == "same":
        return Verdict(word, SAME)
    far = worst(known)
    fails = [one.figure.name for one in known if one.strict and one.ratio > 1 and not (one.lacking or one.same)]
    gone = list(dict.fromkeys(one.figure.subject or one.figure.kind for one in known if one.lacking))
    words, details = [], []
    if far is not None and far.word != "same":
        words, details = [times(far.ratio)], [far.figure.name]
    if fails:
        words.append(f"{len(fails)} fail{'s' if len(fails) == 1 else ''}")
        details.append(f"fails: {_few(fails)}")
    if gone:
        words.append(f"{len(gone)} {lacking}")
        details.append(f"{lacking}: {_few(gone)}")
    return Verdict(word, ", ".join(words) or "passes", "; ".join(details))


def _few(names: Sequence[str]) -> str:
    """Two names, and how many more there are."""
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def times(ratio: float | None) -> str:
    """A distance in units of DFT's own uncertainty, with as many digits as tell it from the limit that it is beyond."""
    if ratio is None or math.isnan(ratio):
        return ""
    if math.isinf(ratio):
        return "∞"
    digits = 1 if 0.05 <= ratio < 99.5 else 0
    while ratio > round(ratio, digits) in (1.0, NEAR, MIDDLE) and digits < 3:
        digits += 1
    return f"{ratio:.{digits}f}×"


def class_of(ratio: float, strict: bool = False) -> str:
    """`within` DFT's own uncertainty (or the floor), `near` (3 times), `off` (10 times), `beyond`; `told`: not judged.

    Strictly there is `within` and `beyond` only. A difference below the floor is `same` whatever its ratio.
    """
    if math.isnan(ratio):
        return "told"
    if strict and ratio > 1:
        return "beyond"
    return "within" if ratio <= 1 else "near" if ratio <= NEAR else "off" if ratio <= MIDDLE else "beyond"
