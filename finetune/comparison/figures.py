"""What an observable finds of a calculator: figures with units, curves, notes; and how far they are from DFT."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from scipy.stats import binomtest

NEAR, MIDDLE = 3.0, 10.0  # times DFT's own uncertainty
FEWEST = 5  # cases without a failure that are worth a verdict
ORDER = ("told", "within", "near", "off", "beyond")


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
        subject: what it is of, a phase or a pair; empty for the whole.
        kind: the quantity, the key of its tolerance.
        value: the number; NaN where there is none.
        unit: its unit.
        low: lower end of its confidence interval or error band, where it has one.
        high: upper end.
    """

    subject: str
    kind: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def error(self) -> float:
        """Half of its band; 0 without one."""
        return 0.0 if self.low is None or self.high is None else abs(self.high - self.low) / 2

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

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Curve:
        """What has been written as JSON, with NaN where there was no number."""
        lists = {name: content[name] for name in ("x", "y", "low", "high") if content[name] is not None}
        numbers = {name: [math.nan if v is None else float(v) for v in values] for name, values in lists.items()}
        return cls(**{**content, **numbers})


@dataclass(frozen=True)
class Measured:
    """What an observable finds of one calculator.

    Attributes:
        figures: numbers, judged and told.
        curves: what is drawn.
        notes: plain words that belong to them.
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
        reference: what DFT says, or the target; None where there is neither.
        ratio: distance from it over DFT's own uncertainty and the statistical errors of both (root of the sum of
            squares); NaN where it is only told, infinite where it is no number.
        strict: it passes or fails, and its distance means nothing.
    """

    figure: Figure
    reference: float | None
    ratio: float
    strict: bool = False

    @property
    def word(self) -> str:
        """Its class, see `class_of`."""
        return class_of(self.ratio, self.strict)

    @property
    def lacking(self) -> bool:
        """Whether there should be a number and is none."""
        return not math.isnan(self.ratio) and not math.isfinite(self.figure.value)


@dataclass(frozen=True)
class Verdict:
    """A cell in a few words.

    Attributes:
        word: `within`, `near`, `off`, `beyond`, `told`, `failed` or `none`.
        brief: what it says, such as a distance.
        detail: of which figure.
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
    """Each figure's distance from the reference, in units of DFT's own uncertainty; those in `strict` pass or fail."""
    known = reference.by_name() if reference is not None else {}
    judged = []
    for figure in figures:
        stern = figure.kind in strict  # whether it passes is no matter of statistics
        one = _judge_one(figure, known.get(figure.name), tolerances.get(figure.kind), not stern)
        judged.append(replace(one, strict=stern))
    return judged


def _judge_one(figure: Figure, known: Figure | None, tolerance: Tolerance | None, noisy: bool) -> Judged:
    wanted = known.value if known is not None and math.isfinite(known.value) else None
    if tolerance is None:
        return Judged(figure, wanted, math.nan)
    wanted = tolerance.target if tolerance.target is not None else wanted
    if wanted is None:
        return Judged(figure, None, math.nan)
    if not math.isfinite(figure.value):
        return Judged(figure, wanted, math.inf)
    distance = abs(figure.value - wanted)
    noise = [one.error for one in (figure, known) if one is not None and noisy]
    limit = math.hypot(tolerance.of(wanted), *noise)
    if distance == 0:
        return Judged(figure, wanted, 0.0)
    return Judged(figure, wanted, distance / limit if limit > 0 else math.inf)


def worst(judged: Sequence[Judged]) -> Judged | None:
    """The figure that is farthest from the reference; None where no distance is judged."""
    ranked = [one for one in judged if not (math.isnan(one.ratio) or one.strict or one.lacking)]
    return max(ranked, key=lambda one: one.ratio) if ranked else None


def overall(judged: Sequence[Judged], lacking: str = "without a number") -> Verdict:
    """The verdict on all figures of a cell: the worst distance, how many fail, and how many are no numbers.

    Args:
        judged: the figures beside the reference.
        lacking: what a subject is that has no number.
    """
    known = [one for one in judged if not math.isnan(one.ratio)]
    if not known:
        return Verdict("told", "–")
    far = worst(known)
    fails = [one.figure.name for one in known if one.strict and one.ratio > 1 and not one.lacking]
    gone = list(dict.fromkeys(one.figure.subject or one.figure.kind for one in known if one.lacking))
    words, details = [], []
    if far is not None:
        words, details = [times(far.ratio)], [far.figure.name]
    if fails:
        words.append(f"{len(fails)} fail{'s' if len(fails) == 1 else ''}")
        details.append(f"fails: {_few(fails)}")
    if gone:
        words.append(f"{len(gone)} {lacking}")
        details.append(f"{lacking}: {_few(gone)}")
    return Verdict(max((one.word for one in known), key=ORDER.index), ", ".join(words) or "passes", "; ".join(details))


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
    """`within` DFT's own uncertainty, `near` (3 times), `off` (10 times), `beyond`; `told` where nothing is judged.

    Strictly there is `within` and `beyond` only.
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
