"""Errors of predictions against labels, with intervals over groups: of all frames, per family, per element."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from torch import Tensor

from finetune.error_sums import FORCE_SUMS, SUMS, GroupSums, add_up, figures, force_sums, of_groups, spread_sums
from finetune.intervals import FEWEST_GROUPS, confidence_interval, resamples
from finetune.properties import Properties
from finetune.references import ALIGNED, Alignment

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

Row = dict[str, float | int]


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
    owner = np.repeat(np.arange(len(sizes)), sizes)
    per_atom = force_sums(_array(predicted.forces), _array(labels.forces))
    energy, p_energy = _array(labels.energy), _array(predicted.energy)
    if shift is not None:
        energy = np.where(np.isfinite(shift.shift), energy, np.nan)  # a frame that cannot be aligned does not count
        p_energy = p_energy + np.nan_to_num(shift.shift)
    per_frame = np.concatenate(
        [
            spread_sums((p_energy / sizes)[:, None], (energy / sizes)[:, None]),
            add_up(per_atom, owner, len(sizes)),
            spread_sums(*(_array(p.stress).reshape(len(sizes), 9) for p in (predicted, labels))),
        ],
        axis=1,
    )
    families = np.array(list(map(str, family)), dtype=object)
    groups = None if group is None else np.array(list(map(str, group)), dtype=object)

    def row(sums: np.ndarray, names: Sequence[str], frames: np.ndarray) -> Row:
        return _row(sums, names, None if groups is None else groups[frames])

    members = {name: np.flatnonzero(families == name) for name in sorted(set(families))}
    atoms = {chemical_symbols[e]: np.flatnonzero(z == e) for e in np.unique(z)}
    return Errors(
        all=row(per_frame, SUMS, np.arange(len(sizes))),
        family={name: {"frames": len(own), **row(per_frame[own], SUMS, own)} for name, own in members.items()},
        element={
            name: {"atoms": len(own), **row(per_atom[own], FORCE_SUMS, owner[own])} for name, own in atoms.items()
        },
        frames=len(sizes),
        alignment="" if shift is None else shift.message(),
        by_group=() if groups is None else _by_group(per_frame, families, groups),
    )


def _by_group(per_frame: np.ndarray, families: np.ndarray, groups: np.ndarray) -> list[GroupSums]:
    """Sums of the frames of each group and family."""
    found = []
    for family, group in sorted(set(zip(families, groups, strict=True))):
        own = (families == family) & (groups == group)
        sums = dict(zip(SUMS, per_frame[own].sum(axis=0).tolist(), strict=True))
        found.append(GroupSums(family, group, int(own.sum()), sums))
    return found


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
        {
            (one.family, one.group): {name: one.sums[name] for name in SUMS}
            for one in errors.by_group
            if family in (None, one.family)
        }
        for errors in (first, second)
    ]
    common = sorted(set(tables[0]) & set(tables[1]))
    groups = np.array([group for _, group in common], dtype=object)
    rows = [np.array([list(table[k].values()) for k in common]).reshape(-1, len(SUMS)) for table in tables]
    sums = [of_groups(part, groups) for part in rows]
    values = [figures(part.sum(axis=0), SUMS)[key] if len(part) else np.array(math.nan) for part in sums]
    number = len(sums[0])
    nothing = (math.nan, math.nan)
    if number < FEWEST_GROUPS:
        return Difference(float(values[0]), float(values[1]), number, nothing, nothing)
    draws = resamples(number)
    one, two = (figures(draws @ part, SUMS)[key] for part in sums)
    first_value, second_value = map(float, values)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios, ratio = two / one, float(np.divide(second_value, first_value))
    return Difference(
        *(first_value, second_value, number),
        confidence_interval(second_value - first_value, two - one, number, positive=False),
        confidence_interval(ratio, ratios, number, positive=key not in SIGNED),
    )


def _row(sums: np.ndarray, names: Sequence[str], groups: np.ndarray | None) -> Row:
    """Errors from sums of parts, shape (parts, sums), with intervals where the parts are of three or more groups."""
    values = {name: float(value) for name, value in figures(sums.sum(axis=0), names).items()}
    if groups is None:
        return dict(values)
    parts = of_groups(sums, groups)
    row: Row = {**values, "groups": len(parts)}
    if len(parts) >= FEWEST_GROUPS:
        for name, found in figures(resamples(len(parts)) @ parts, names).items():
            ends = confidence_interval(values[name], found, len(parts), positive=name not in SIGNED)
            row[f"{name}_low"], row[f"{name}_high"] = ends
    return row


def force_errors(predicted: np.ndarray, reference: np.ndarray, group: Sequence[str] | np.ndarray | None = None) -> Row:
    """Return MAE and RMSE of the components in meV/Å, slope and cosine of forces in eV/Å, shape (atoms, 3).

    Args:
        predicted: predicted forces.
        reference: reference forces, NaN where not known.
        group: group of each atom's frame, for intervals.
    """
    return _row(
        force_sums(predicted, reference), FORCE_SUMS, None if group is None else np.asarray(group, dtype=object)
    )


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
