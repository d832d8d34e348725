"""Train, valid and test parts that share no group, as a function of the data alone."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from finetune.data.frames import Frame, hash_fraction
from finetune.errors import InputError
from finetune.provenance import matches

PARTS = ("train", "valid", "test")
Split = tuple[list[Frame], list[Frame], list[Frame]]


def split(frames: Sequence[Frame], fractions: tuple[float, float, float] = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """Divide frames into train, valid and test by their groups.

    A hash of seed and group is a number in [0, 1): below the valid fraction the group goes to valid, in the next
    stretch to test, else to train. So the parts depend neither on file order nor on which other groups there are, and a
    group keeps its place when data is added; the fractions hold on average over many groups. Only where a wanted part
    stays empty, it gets the group whose number is nearest to its stretch, from a part that has another; the group stays
    there until the data has grown.

    Args:
        frames: with `group`.
        fractions: shares of train, valid and test in the groups; they are divided by their sum, and 0 leaves a part
            empty.
        seed: another seed, another split.

    Raises:
        InputError: fewer groups than wanted parts, or fractions that are negative or all zero.
    """
    if min(fractions) < 0 or sum(fractions) <= 0:
        raise InputError(f"split {fractions} must be shares of train, valid and test, none negative and not all 0")
    stretches = _stretches(fractions)
    numbers = {group: hash_fraction(seed, group) for group in sorted({frame.group for frame in frames})}
    if len(numbers) < len(stretches):
        raise InputError(
            f"{len(numbers)} group(s) of frames ({', '.join(list(numbers)[:3])}) cannot be divided into "
            f"{', '.join(stretches)} without dividing a trajectory; give the parts as files of their own, or set "
            "`group` in the frames' info"
        )
    place = {g: next(p for p, (low, high) in stretches.items() if low <= x < high) for g, x in numbers.items()}
    for part, (low, high) in stretches.items():
        if part not in place.values():
            movable = [g for g in place if list(place.values()).count(place[g]) > 1]
            place[min(movable, key=lambda g: max(low - numbers[g], numbers[g] - high))] = part
    train, valid, test = ([frame for frame in frames if place[frame.group] == part] for part in PARTS)
    return train, valid, test


def subset(frames: Sequence[Frame], fraction: float, seed: int = 0) -> list[Frame]:
    """A random share of frames, for learning curves; the smaller share is part of the larger one.

    Frames are drawn in the order of a hash of seed and structure, whatever their order; at least one is kept.

    Raises:
        InputError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction} of the training frames must be above 0 and at most 1")
    count = max(1, round(fraction * len(frames)))
    drawn = sorted(range(len(frames)), key=lambda i: hash_fraction(seed, frames[i].structure_hash))[:count]
    return [frames[i] for i in sorted(drawn)]


def check_disjoint(parts: Mapping[str, Sequence[Frame]]) -> None:
    """Stop where two parts hold the same structure, see `finetune.provenance.matches`; warn where they share a group.

    Args:
        parts: frames of train, valid, test, by name.

    Raises:
        InputError: the same structure stands in two parts, so that errors would be measured on what was learnt.
    """
    for (one, first), (two, second) in combinations(parts.items(), 2):
        found = matches([frame.fingerprint for frame in second], [frame.fingerprint for frame in first])
        same = [(first[k], frame) for k, frame in zip(found, second, strict=True) if k >= 0]
        if same:
            a, b = same[0]
            raise InputError(
                f"{len(same)} structures stand in both {one} and {two}, first {a.where()} and {b.where()}; "
                "drop them from one"
            )
        shared = sorted({frame.group for frame in first} & {frame.group for frame in second})
        if shared:
            shown = ", ".join(shared[:5]) + (", ..." if len(shared) > 5 else "")
            warnings.warn(
                f"{one} and {two} share {len(shared)} group(s), so their errors are not independent: {shown}",
                stacklevel=2,
            )


def _stretches(fractions: tuple[float, float, float]) -> dict[str, tuple[float, float]]:
    """The stretch of [0, 1) that belongs to each wanted part: valid, test, then train."""
    wanted = {part: share for part in ("valid", "test", "train") if (share := fractions[PARTS.index(part)]) > 0}
    ends = [*(np.cumsum(list(wanted.values()))[:-1] / sum(fractions)).tolist(), 1.0]
    return dict(zip(wanted, zip([0.0, *ends], ends, strict=False), strict=True))
