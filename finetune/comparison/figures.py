"""Figures with units and intervals, curves and notes of one calculator, and verdicts on their distance from DFT.

A verdict compares a distance with the larger of two: DFT's own uncertainty of the quantity (`Tolerance`), and the
floor, which is the difference that the same thing measured twice shows. A difference below the floor is "not
distinguishable".
An observable states the floor of a figure in one of four ways:

- `low`, `high` and `samples`: a 95 % interval of the figure and the number of independent measurements behind it;
- `floor`: the difference itself, for figures that compare two curves;
- neither: the figure is the same in every run, and `Observable.exact` says why;
- `short`: why the measurement is too short for a verdict, which then is not given.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from scipy.stats import binomtest, norm
from scipy.stats import t as student

NEAR, MIDDLE = 3.0, 10.0  # times DFT's own uncertainty, or the floor where that is larger
FEWEST = 5  # cases without a failure that are worth a verdict
ERROR_RATE = 0.05  # share of measurements whose interval leaves the true value out
ROUNDING = 1e-3  # share of DFT's own uncertainty; smaller differences are rounding in single precision and in files
ORDER = ("told", "same", "within", "near", "off", "beyond")
SAME = "not distinguishable"
TOO_SHORT = "too short for a verdict"


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
        subject: what it is of, a phase or a pair; empty for the whole.
        kind: the quantity, the key of its tolerance.
        value: the number; NaN where it is not available.
        unit: its unit.
        low: lower end of its 95 % confidence interval; None for a figure that is the same in every run.
        high: upper end.
        samples: independent measurements behind the interval, such as blocks; None takes it for that of a normal
            distribution.
        floor: difference from the reference that the same thing measured twice shows, in place of the interval.
        short: why the measurement is too short for a verdict, such as "0.4 ps; a verdict needs 4 ps"; empty where it is
            long enough.
    """

    subject: str
    kind: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    samples: int | None = None
    floor: float | None = None
    short: str = ""

    @property
    def error(self) -> float:
        """Half of its interval; 0 without one."""
        return 0.0 if self.low is None or self.high is None else abs(self.high - self.low) / 2

    @property
    def noisy(self) -> bool:
        """Whether another measurement of the same thing may differ."""
        return self.floor is not None or (self.low is not None and self.high is not None)

    def margin(self, other: float, compared: int = 1) -> float:
        """Distance that the figure may move towards another number when it is measured again.

        Args:
            other: the number.
            compared: number of figures that one verdict compares; of many some are far off by chance, so each interval
                is widened until all of them together hold in 95 % of cases (Bonferroni).
        """
        if self.floor is not None:
            return self.floor
        if self.low is None or self.high is None:
            return 0.0
        half = self.value - self.low if other < self.value else self.high - self.value
        return max(half, 0.0) * wider(self.samples, compared)

    @property
    def name(self) -> str:
        """Subject and quantity."""
        return f"{self.subject}: {self.kind}" if self.subject else self.kind


@dataclass(frozen=True)
class Curve:
    """A line or a cloud of points in the panel of that name, where those of all calculators are drawn together.

    Attributes:
        panel: title of the panel.
        x: abscissae.
        y: ordinates.
        x_label: quantity and unit of x.
        y_label: quantity and unit of y.
        style: `line`, `points`, `both`, or `steps`.
        low: lower end of a band around y, where there is one.
        high: upper end.
        diagonal: y = x is what is right, so the panel has that line.
        limits: lowest and highest ordinate that the panel shows; None leaves that to the data.
        whole: the panel shows all between the limits, also where there are no data.
        parts: the same curve measured several times, by blocks of a run or by runs; its floor comes from them.
    """

    panel: str
    x: Sequence[float]
    y: Sequence[float]
    x_label: str
    y_label: str
    style: str = "line"
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    diagonal: bool = False
    limits: Sequence[float] | None = None
    whole: bool = False
    parts: Sequence[Sequence[float]] | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Curve:
        """What has been written as JSON, with NaN where there was no number."""
        lists = {name: content[name] for name in ("x", "y", "low", "high") if content[name] is not None}
        numbers = {name: [math.nan if v is None else float(v) for v in values] for name, values in lists.items()}
        return cls(**{**content, **numbers})


@dataclass(frozen=True)
class Measured:
    """The result of an observable for one calculator.

    Attributes:
        figures: numbers, with or without a verdict.
        curves: to be drawn.
        notes: remarks for the report.
    """

    figures: list[Figure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """Plain lists and numbers; null where a number is not known."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Measured:
        """What `json` has written."""
        figures = [
            Figure(**{**figure, "value": math.nan if figure["value"] is None else float(figure["value"])})
            for figure in content["figures"]
        ]
        return cls(figures, [Curve.from_json(curve) for curve in content["curves"]], list(content["notes"]))

    def by_name(self) -> dict[str, Figure]:
        """The figures by subject and quantity."""
        return {figure.name: figure for figure in self.figures}


@dataclass(frozen=True)
class Tolerance:
    """DFT's own uncertainty of a quantity: what two careful calculations of it may differ by.

    Attributes:
        absolute: in the unit of the quantity.
        relative: as a share of the reference value, added.
        target: what the quantity should be where DFT gives none; None compares with DFT only.
    """

    absolute: float = 0.0
    relative: float = 0.0
    target: float | None = None

    def of(self, reference: float) -> float:
        """The uncertainty of a reference value, in its unit."""
        return self.absolute + self.relative * abs(reference)


@dataclass(frozen=True)
class Judged:
    """A figure beside the reference.

    Attributes:
        figure: the figure.
        reference: DFT's value, or the target; None where neither is known.
        ratio: distance from it over DFT's own uncertainty or the floor, the larger of both; NaN where it is not judged,
            infinite where the figure is not available.
        strict: it passes or fails, and its distance means nothing.
        same: it is not distinguishable from the reference: the difference is below the floor.
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
    if wanted is None or (known is not None and other is None and not math.isfinite(figure.value)):
        return Judged(figure, wanted, math.nan, strict)  # nothing to compare with, or missing in both
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


@cache
def wider(samples: int | None, compared: int) -> float:
    """Factor from a 95 % interval to one that holds for all of several figures together, by Student's t."""
    inner, outer = 1 - ERROR_RATE / 2, 1 - ERROR_RATE / 2 / compared
    if samples is None:
        return float(norm.ppf(outer) / norm.ppf(inner))
    return float(student.ppf(outer, samples - 1) / student.ppf(inner, samples - 1))


def interval(values: Iterable[float]) -> tuple[float, float, int]:
    """95 % interval of the mean of independent measurements, by Student's t, and their number: `low, high, samples`.

    Raises:
        ValueError: fewer than two measurements.
    """
    values = list(values)
    if len(values) < 2:
        raise ValueError(f"interval: got {len(values)} measurements, expected at least 2")
    count, mean = len(values), math.fsum(values) / len(values)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
    half = float(student.ppf(1 - ERROR_RATE / 2, count - 1)) * error
    return mean - half, mean + half, count


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
    beside = [one for one in judged if one.reference is not None]
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


def binomial(count: int, of: int) -> tuple[float, float]:
    """95 % interval, %, of a share seen in `count` of `of` cases (Clopper and Pearson, Biometrika 26, 404, 1934)."""
    found = binomtest(count, of).proportion_ci(0.95)
    return 100 * float(found.low), 100 * float(found.high)


def class_of(ratio: float, strict: bool = False) -> str:
    """`within` DFT's own uncertainty (or the floor), `near` (3 times), `off` (10 times), `beyond`; `told`: not judged.

    Strictly there is `within` and `beyond` only. A difference below the floor is `same` whatever its ratio.
    """
    if math.isnan(ratio):
        return "told"
    if strict and ratio > 1:
        return "beyond"
    return "within" if ratio <= 1 else "near" if ratio <= NEAR else "off" if ratio <= MIDDLE else "beyond"


def _plain(value: Any) -> Any:
    """Python's own numbers, None for those that are not finite."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, str | bool) or value is None:
        return value
    if hasattr(value, "__iter__"):
        return [_plain(item) for item in value]
    number = value.item() if hasattr(value, "item") else value
    return number if math.isfinite(number) else None
