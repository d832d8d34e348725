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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from scipy.stats import binomtest, norm
from scipy.stats import t as student

FEWEST = 5  # cases without a failure that are worth a verdict
ERROR_RATE = 0.05  # share of measurements whose interval leaves the true value out


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


def binomial(count: int, of: int) -> tuple[float, float]:
    """95 % interval, %, of a share seen in `count` of `of` cases (Clopper and Pearson, Biometrika 26, 404, 1934)."""
    found = binomtest(count, of).proportion_ci(0.95)
    return 100 * float(found.low), 100 * float(found.high)


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
