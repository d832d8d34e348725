"""Errors of predictions against labels, with intervals over groups: of all frames, per family, per element."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from scipy.stats import t
from torch import Tensor

from finetune.properties import Properties
from finetune.references import ALIGNED, Alignment

SMALL_FORCE = 0.05  # eV/Å; the direction of a smaller reference force is mostly noise
FEWEST_GROUPS = 3  # groups from which an interval is given
RESAMPLES = 4000  # bootstrap resamples of an interval
CONFIDENCE = 0.95
SIGNED = ("forces_slope", "forces_cosine")  # the other errors are positive

UNITS: Mapping[str, str] = {
    "energy_mae": "meV/atom",
    "energy_rmse": "meV/atom",
    "forces_mae": "meV/Å",
    "forces_rmse": "meV/Å",
    "forces_slope": "1",
    "forces_cosine": "1",
    "stress_mae": "meV/Å³",
    "stress_rmse": "meV/Å³",
}
SPREAD = ("count", "absolute", "square")  # number of known components, sums of |error| and of error²
ANGLES = ("product", "reference_square", "cosines", "cosine")  # sums behind slope and cosine of forces
FORCE_SUMS = tuple(f"forces_{name}" for name in (*SPREAD, *ANGLES))
SUMS = (*(f"energy_{name}" for name in SPREAD), *FORCE_SUMS, *(f"stress_{name}" for name in SPREAD))

Row = dict[str, float | int]


@dataclass(frozen=True)
class GroupSums:
    """Sums over the frames of one group and family, from which errors of any set of groups follow.

    Attributes:
        family: family of the frames.
        group: their group.
        frames: number of frames.
        sums: the sums named in `SUMS`; errors in eV/atom, eV/Å and eV/Å³.
    """

    family: str
    group: str
    frames: int
    sums: Mapping[str, float]


@dataclass(frozen=True)
class Errors:
    """Errors of a set of frames, in the units of `UNITS`; NaN where no label is known.

    A row of three or more groups has, for each error, the ends of its 95 % interval as `NAME_low` and `NAME_high`, and
    the number of groups as `groups`.

    Attributes:
        all: errors over all frames.
        family: the same for the frames of each family, with their number as `frames`.
        element: errors of the forces on the atoms of each element, by symbol, with their number as `atoms`.
        frames: number of frames.
        alignment: how energies were aligned before they were compared, in a sentence; empty where they were not.
        by_group: sums of each group and family, for errors of parts and paired differences of two evaluations.
    """

    all: Row
    family: dict[str, Row]
    element: dict[str, Row]
    frames: int
    alignment: str = ""
    by_group: Sequence[GroupSums] = field(default_factory=tuple)

    @property
    def energy_shifted(self) -> bool:
        """Whether energies were compared after a shift per element."""
        return bool(self.alignment)

    def json(self) -> dict[str, Any]:
        """Return plain numbers for a JSON file, null where no label is known."""
        return {
            "all": _plain(self.all),
            "family": {name: _plain(row) for name, row in self.family.items()},
            "element": {name: _plain(row) for name, row in self.element.items()},
            "frames": self.frames,
            "energy_shifted": self.energy_shifted,
            "alignment": self.alignment,
            "units": dict(UNITS),
            "by_group": [
                {"family": one.family, "group": one.group, "frames": one.frames, "sums": _plain(dict(one.sums))}
                for one in self.by_group
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Errors:
        """Read back the output of `json`; NaN for null."""

        def row(values: Mapping[str, Any]) -> Row:
            return {name: math.nan if value is None else value for name, value in values.items()}

        groups = [
            GroupSums(one["family"], one["group"], one["frames"], row(one["sums"]))
            for one in content.get("by_group", [])  # files of older versions have none
        ]
        return cls(
            all=row(content["all"]),
            family={name: row(values) for name, values in content["family"].items()},
            element={name: row(values) for name, values in content["element"].items()},
            frames=content["frames"],
            alignment=content.get("alignment", ALIGNED if content["energy_shifted"] else ""),
            by_group=groups,
        )


def errors(
    predicted: Properties,
    labels: Properties,
    n_atoms: Tensor,
    family: Sequence[str],
    numbers: Tensor,
    group: Sequence[str] | None = None,
    shift: Alignment | None = None,
) -> Errors:
    """Return errors of energy per atom, forces and stress over all frames, per family, and of forces per element.

    Args:
        predicted: predictions for all frames.
        labels: labels of the same frames, NaN where not known.
        n_atoms: atoms of each frame, shape (structures).
        family: family of each frame.
        numbers: atomic number of each atom, shape (atoms).
        group: group of each frame; intervals come from a bootstrap over groups. Without it there are none.
        shift: energies to add to the predictions of a model with another energy zero, see
            `finetune.references.align`.
    """
    sizes, z = _array(n_atoms).astype(int), _array(numbers).astype(int)
    energy, p_energy = _array(labels.energy), _array(predicted.energy)
    if shift is not None:
        energy = np.where(np.isfinite(shift.shift), energy, np.nan)  # a frame that cannot be aligned does not count
        p_energy = p_energy + np.nan_to_num(shift.shift)
    p_forces, forces = _array(predicted.forces), _array(labels.forces)
    per_atom = _force_sums(p_forces, forces)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    per_frame = np.concatenate(
        [
            _spread_sums((p_energy / sizes)[:, None], (energy / sizes)[:, None]),
            _add_up(per_atom, owner, len(sizes)),
            _spread_sums(*(_array(p.stress).reshape(len(sizes), 9) for p in (predicted, labels))),
        ],
        axis=1,
    )
    families, groups = (np.asarray(x, dtype=object) for x in (family, family if group is None else group))
    keys = sorted({(str(f), str(g)) for f, g in zip(families, groups, strict=True)})
    place = {key: k for k, key in enumerate(keys)}
    key_of = np.array([place[str(f), str(g)] for f, g in zip(families, groups, strict=True)], dtype=int)
    by_key = _add_up(per_frame, key_of, len(keys))
    counts = np.bincount(key_of, minlength=len(keys))
    names = [key[1] for key in keys] if group is not None else None

    def row(chosen: np.ndarray) -> Row:
        own = None if names is None else [name for name, there in zip(names, chosen, strict=True) if there]
        return _row(by_key[chosen], SUMS, own)

    found = sorted(set(map(str, family)))
    elements: dict[str, Row] = {}
    for e in np.unique(z):
        atoms = z == e
        sums = _add_up(per_atom[atoms], key_of[owner[atoms]], len(keys))
        there = np.bincount(key_of[owner[atoms]], minlength=len(keys)) > 0
        own = None if names is None else [name for name, has in zip(names, there, strict=True) if has]
        elements[chemical_symbols[e]] = {"atoms": int(atoms.sum()), **_row(sums[there], FORCE_SUMS, own)}
    return Errors(
        all=row(np.ones(len(keys), dtype=bool)),
        family={
            name: {
                "frames": int(sum(counts[k] for k, key in enumerate(keys) if key[0] == name)),
                **row(np.array([key[0] == name for key in keys])),
            }
            for name in found
        },
        element=elements,
        frames=len(sizes),
        alignment="" if shift is None else shift.message(),
        by_group=[
            GroupSums(*key, int(counts[k]), dict(zip(SUMS, by_key[k].tolist(), strict=True)))
            for k, key in enumerate(keys)
        ]
        if group is not None
        else (),
    )


@dataclass(frozen=True)
class Difference:
    """An error of one evaluation beside that of another on the same frames, bootstrapped in pairs over groups.

    Attributes:
        first: the error of the first.
        second: the error of the second.
        groups: number of groups.
        difference_interval: 95 % interval of second minus first; NaN with fewer than three groups.
        ratio_interval: 95 % interval of second over first.
    """

    first: float
    second: float
    groups: int
    difference_interval: tuple[float, float]
    ratio_interval: tuple[float, float]

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first

    @cached_property
    def distinguishable(self) -> bool:
        """Whether the interval of the difference excludes zero; False where there is no interval."""
        low, high = self.difference_interval
        return low > 0 or high < 0


def paired(first: Errors, second: Errors, key: str, family: str | None = None) -> Difference:
    """Compare one error of two evaluations of the same frames, resampling the same groups in both.

    Args:
        first: errors of one potential.
        second: errors of another one on the same frames.
        key: a name in `UNITS`.
        family: a family of frames; None for all.

    Returns:
        The two errors over the groups that both have, in the units of `UNITS`, with intervals.
    """
    tables = [
        {(one.family, one.group): one.sums for one in errors.by_group if family in (None, one.family)}
        for errors in (first, second)
    ]
    common = sorted(set(tables[0]) & set(tables[1]))
    sums = [
        _of_groups([[table[k].get(n, 0.0) for n in SUMS] for k in common], [k[1] for k in common]) for table in tables
    ]
    values = [_figures(part.sum(axis=0), SUMS)[key] if len(part) else np.array(math.nan) for part in sums]
    number = len(sums[0])
    nothing = (math.nan, math.nan)
    if number < FEWEST_GROUPS:
        return Difference(float(values[0]), float(values[1]), number, nothing, nothing)
    draws = _draws(number)
    one, two = (_figures(draws @ part, SUMS)[key] for part in sums)
    first_value, second_value = map(float, values)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios, ratio = two / one, float(np.divide(second_value, first_value))
    return Difference(
        *(first_value, second_value, number),
        _ends(second_value - first_value, two - one, number, positive=False),
        _ends(ratio, ratios, number, positive=key not in SIGNED),
    )


def interval(values: np.ndarray, weights: np.ndarray | None = None, positive: bool = False) -> tuple[float, float]:
    """Return the 95 % interval of a (weighted) mean over independent groups, by the bootstrap of `errors`.

    Args:
        values: one value of each group, shape (groups).
        weights: weight of each group, shape (groups); equal by default.
        positive: the quantity is positive, such as an error, and scatters by factors.
    """
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=float)
    known = np.isfinite(values) & (weights > 0)
    x, w = np.asarray(values, dtype=float)[known], weights[known]
    if len(x) < FEWEST_GROUPS:
        return math.nan, math.nan
    draws = _draws(len(x))
    return _ends(float(x @ w / w.sum()), (draws @ (x * w)) / (draws @ w), len(x), positive)


def _row(sums: np.ndarray, names: Sequence[str], groups: Sequence[str] | None) -> Row:
    """Errors from sums of parts, shape (parts, sums), with intervals where the parts have three or more groups."""
    values = {name: float(value) for name, value in _figures(sums.sum(axis=0), names).items()}
    if groups is None:
        return dict(values)
    parts = _of_groups(sums, groups)
    row: Row = {**values, "groups": len(parts)}
    if len(parts) >= FEWEST_GROUPS:
        for name, found in _figures(_draws(len(parts)) @ parts, names).items():
            ends = _ends(values[name], found, len(parts), positive=name not in SIGNED)
            row[f"{name}_low"], row[f"{name}_high"] = ends
    return row


def _of_groups(sums: Any, groups: Sequence[str]) -> np.ndarray:
    """Sums of each group; a group whose frames are of several families counts once."""
    names = sorted(set(groups))
    place = {name: k for k, name in enumerate(names)}
    rows = np.asarray(sums, dtype=float)
    return _add_up(
        rows.reshape(len(groups), rows.size // max(len(groups), 1)),
        np.array([place[name] for name in groups], dtype=int),
        len(names),
    )


@lru_cache(maxsize=64)
def _draws(groups: int) -> np.ndarray:
    """How often each group is drawn in each resample, shape (RESAMPLES, groups); the same in every call."""
    return np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES).astype(float)


def _ends(value: float, found: np.ndarray, groups: int, positive: bool) -> tuple[float, float]:
    """Ends of the 95 % interval of a value whose resampled values are given; NaN where hardly any is finite.

    Percentiles of so few groups are too narrow (three groups would cover 73 % of the time). So the spread of the
    resampled values, of their logarithms where the quantity is positive, is taken times Student's t with groups - 1
    degrees of freedom and sqrt(groups / (groups - 1)) (Hesterberg, The American Statistician 69, 371, 2015, doi
    10.1080/00031305.2015.1089789).
    """
    known = found[np.isfinite(found)]
    if len(known) < len(found) / 2 or not math.isfinite(value):  # a label that hardly any group has
        return math.nan, math.nan
    factor = float(t.ppf((1 + CONFIDENCE) / 2, groups - 1)) * math.sqrt(groups / (groups - 1))
    if positive and value > 0 and known.min() > 0:
        ratio = math.exp(min(factor * float(np.log(known).std()), 700.0))
        return value / ratio, value * ratio
    half = factor * float(known.std())
    return (max(0.0, value - half) if positive else value - half), value + half


def _figures(sums: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Errors in the units of `UNITS` from sums, the last axis being `names`."""
    s = dict(zip(names, np.moveaxis(np.asarray(sums, dtype=float), -1, 0), strict=True))
    found: dict[str, np.ndarray] = {}
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 is NaN: no label is known
        for kind in ("energy", "forces", "stress"):
            if f"{kind}_count" in s:
                found[f"{kind}_mae"] = 1e3 * s[f"{kind}_absolute"] / s[f"{kind}_count"]
                found[f"{kind}_rmse"] = 1e3 * np.sqrt(s[f"{kind}_square"] / s[f"{kind}_count"])
            if kind == "forces":
                found["forces_slope"] = s["forces_product"] / s["forces_reference_square"]
                found["forces_cosine"] = s["forces_cosine"] / s["forces_cosines"]
    return found


def _add_up(rows: np.ndarray, owner: np.ndarray, number: int) -> np.ndarray:
    """Sums of the rows of each owner, shape (number, columns)."""
    total = np.zeros((number, rows.shape[1]))
    np.add.at(total, owner, rows)
    return total


def _spread_sums(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Count, sum of |error| and sum of error² of the known components of each row, shape (rows, 3)."""
    known = np.isfinite(reference)
    error = np.where(known, predicted - reference, 0.0)
    return np.stack([known.sum(axis=1), np.abs(error).sum(axis=1), (error**2).sum(axis=1)], axis=1).astype(float)


def _force_sums(predicted: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Sums behind the errors of the forces on each atom, shape (atoms, 7), in the order of `FORCE_SUMS`."""
    known = np.isfinite(reference)
    p, r = np.where(known, predicted, 0.0), np.where(known, reference, 0.0)
    size = np.linalg.norm(reference, axis=1)
    clear = size > SMALL_FORCE  # False where a component is NaN
    norms = np.maximum(np.linalg.norm(predicted, axis=1), np.finfo(float).tiny) * np.where(clear, size, 1.0)
    cosine = np.where(clear, (p * r).sum(axis=1) / norms, 0.0)
    angles = np.stack([(p * r).sum(axis=1), (r * r).sum(axis=1), clear.astype(float), cosine], axis=1)
    return np.concatenate([_spread_sums(predicted, reference), angles], axis=1)


def force_errors(predicted: np.ndarray, reference: np.ndarray, group: Sequence[str] | np.ndarray | None = None) -> Row:
    """Return MAE and RMSE of the components in meV/Å, slope and cosine of forces in eV/Å, shape (atoms, 3).

    Args:
        predicted: predicted forces.
        reference: reference forces, NaN where not known.
        group: group of each atom's frame, for intervals.
    """
    return _row(_force_sums(predicted, reference), FORCE_SUMS, None if group is None else list(map(str, group)))


def forces_slope(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Least-squares slope through the origin of predicted against reference components; below 1 is softening.

    See arXiv 2405.07105. NaN where no reference component is known or all are 0.
    """
    return float(force_errors(predicted, reference)["forces_slope"])


def forces_cosine(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Mean cosine between predicted and reference force vectors of atoms whose reference force is above 0.05 eV/Å."""
    return float(force_errors(predicted, reference)["forces_cosine"])


def mae(predicted: np.ndarray, reference: np.ndarray) -> float:
    """Mean absolute error over the components whose reference is known; NaN without any."""
    known = np.isfinite(reference)
    return float(np.abs(predicted[known] - reference[known]).mean()) if known.any() else math.nan


def _array(values: Tensor) -> np.ndarray:
    """A tensor as a double precision array on the CPU."""
    return values.detach().cpu().double().numpy()


def _plain(row: Mapping[str, float | int]) -> dict[str, float | int | None]:
    """A row with None for NaN."""
    return {name: value if math.isfinite(value) else None for name, value in row.items()}
