"""Structures that stand in the data more than once, or on both sides of a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np

from finetune.data.frames import Frame
from finetune.doctor.findings import Finding, by_source, short, some
from finetune.doctor.likeness import RATTLE, Likeness
from finetune.provenance import matches

SAME_VOLUME = 1e-4  # relative difference of volumes per atom
SAME_TRAJECTORY = 0.2  # share of a part that hardly differs from the largest part, above which it is no part
MUCH_CLOSER = 0.3  # distance across parts over distance between groups within a part
PARTS = "if these files are not parts of a split, look at them one by one"


def duplicates(frames: Sequence[Frame]) -> Finding:
    """The same structure twice in one file, with the same labels or with others."""
    seen: dict[tuple[str, str], Frame] = {}
    same: list[str] = []
    other: list[str] = []
    for frame in frames:
        first = seen.setdefault((frame.source, frame.structure_hash), frame)
        if first is not frame:
            (same if first.content_hash == frame.content_hash else other).append(f"{frame.where()} as {first.index}")
    if other:
        words = f"{len(other)} structures stand twice with different labels: {some(other)}"
        return Finding("duplicates", "fault", words, "find out which labels are right and drop the others")
    if same:
        words = f"{len(same)} frames stand twice: {some(same)}"
        return Finding("duplicates", "warning", words, "drop the copies; they only count these frames twice")
    return Finding("duplicates", "good", "no structure stands twice in a file")


def near_duplicates(frames: Sequence[Frame], alike: Likeness) -> Finding:
    """Frames of one file that are closer to another one than a displacement of `RATTLE`."""
    check = "near duplicates"
    close: list[int] = []
    for part in by_source(frames).values():
        nearest = _nearest(frames, part, part, alike)
        close += [i for i in part if nearest[i] < 1]
    words = f"closer to another one, by {alike.by}, than atoms displaced by {RATTLE} Å"
    if len(close) <= 0.05 * len(frames):
        return Finding(check, "good", f"{len(close)} of {len(frames)} frames are {words}")
    words = f"{len(close)} of {len(frames)} frames are {words}: {some(frames[i].where() for i in close)}"
    return Finding(check, "warning", words, "take snapshots further apart; labels of such frames say little new")


def leaks(frames: Sequence[Frame], alike: Likeness | None = None, subset: Sequence[Frame] = ()) -> list[Finding]:
    """What files have in common that are parts of a split.

    Args:
        frames: all frames; each file is a part.
        alike: likeness of `subset`.
        subset: frames whose likeness is known.
    """
    parts = {name: [frames[i] for i in part] for name, part in by_source(frames).items()}
    if len(parts) < 2:
        return [Finding("leaks between splits", "skipped", "one file has no parts to leak between")]
    findings = [_shared_structures(parts), _shared_groups(parts), _shared_cells(parts)]
    return findings if alike is None else [*findings, _close_parts(subset, alike)]


def _shared_structures(parts: Mapping[str, Sequence[Frame]]) -> Finding:
    words = []
    for (one, first), (two, second) in combinations(parts.items(), 2):
        found = matches([frame.fingerprint for frame in second], [frame.fingerprint for frame in first])
        common = [f"{frame.where()} as {first[k].index}" for k, frame in zip(found, second, strict=True) if k >= 0]
        if common:
            words.append(f"{short(one)} and {short(two)} share {len(common)} structures: {some(common)}")
    if not words:
        return Finding("leaks: structures", "good", "no structure stands in two files")
    remedy = f"drop them from one; errors would be measured on what was learnt ({PARTS})"
    return Finding("leaks: structures", "fault", "; ".join(words), remedy)


def _shared_groups(parts: Mapping[str, Sequence[Frame]]) -> Finding:
    words = _shared(parts, lambda frame: frame.group, "groups")
    nameless = sum("group" not in frame.atoms.info for part in parts.values() for frame in part)
    if not words and nameless:
        text = f"{nameless} of {sum(map(len, parts.values()))} frames do not say which trajectory they are of"
        return Finding("leaks: groups", "skipped", text, "name it by `group` in info; see also likeness, below")
    if not words:
        return Finding("leaks: groups", "good", "no group (trajectory) stands in two files")
    remedy = f"put all frames of a group into one part, or errors come out too good ({PARTS})"
    return Finding("leaks: groups", "fault", words, remedy)


def _shared_cells(parts: Mapping[str, Sequence[Frame]]) -> Finding:
    words = _shared(parts, _cell, "cells (composition and volume)")
    if not words:
        return Finding("leaks: cells", "good", "no composition stands with the same volume in two files")
    remedy = "they may start from one structure: then errors are those of new trajectories, not of new phases"
    return Finding("leaks: cells", "warning", words, remedy)


def _cell(frame: Frame) -> str:
    """Formula and rounded volume per atom; of molecules, which have no volume, the formula."""
    atoms = frame.atoms
    formula = str(atoms.symbols.formula.reduce()[0].format("metal"))
    if atoms.cell.rank < 3:
        return formula
    volume = atoms.get_volume() / len(atoms)
    step = round(np.log(volume) / SAME_VOLUME)
    return f"{formula} {np.exp(step * SAME_VOLUME):.2f} Å³/atom"


def _shared(parts: Mapping[str, Sequence[Frame]], key: Callable[[Frame], str], what: str) -> str:
    """What each two files share, in words."""
    words = []
    for (one, first), (two, second) in combinations(parts.items(), 2):
        common = {key(frame) for frame in first} & {key(frame) for frame in second}
        if common:
            words.append(f"{short(one)} and {short(two)} share {len(common)} {what}: {some(sorted(common))}")
    return "; ".join(words)


def _close_parts(frames: Sequence[Frame], alike: Likeness) -> Finding:
    """Frames of small parts against the largest one: much closer than its own groups are to each other."""
    check = "leaks: likeness"
    parts = by_source(frames)
    largest = max(parts, key=lambda name: len(parts[name]))
    inside = _nearest(frames, parts[largest], parts[largest], alike, other_group=True)
    usual = float(np.median(list(inside.values())))
    words, worst, divided = [], np.inf, False
    for name, part in parts.items():
        if name == largest:
            continue
        across = _nearest(frames, part, parts[largest], alike)
        close = [i for i in part if across[i] < 1]
        ratio = float(np.median(list(across.values()))) / usual if np.isfinite(usual) else np.inf
        worst = min(worst, ratio)
        divided |= len(close) > SAME_TRAJECTORY * len(part)
        if close:
            there = some(frames[i].where() for i in close)
            words.append(f"{len(close)} frames of {short(name)} are within {RATTLE} Å of {short(largest)}: {there}")
        elif ratio < MUCH_CLOSER:
            words.append(f"{short(name)} is {1 / ratio:.1f} times closer to {short(largest)} than its groups are")
    if words:
        text = "; ".join(words) + f" (by {alike.by})"
        if divided:
            remedy = f"they seem to be of one trajectory: put all of it into one part ({PARTS})"
            return Finding(check, "fault", text, remedy)
        return Finding(check, "warning", text, "look whether both sides are of one trajectory or one structure")
    text = f"by {alike.by}, the other files are as far from {short(largest)} as its own groups from each other"
    return Finding(check, "good", f"{text} (ratio {worst:.2f} or more)" if np.isfinite(worst) else text)


def _nearest(
    frames: Sequence[Frame], part: Sequence[int], others: Sequence[int], alike: Likeness, other_group: bool = False
) -> dict[int, float]:
    """Distance of each frame to the nearest other one, of another group if wanted; infinite where there is none."""
    groups = np.array([frame.group for frame in frames], dtype=object)
    rows, columns = np.asarray(part), np.asarray(others)
    distances = alike.distances(rows, columns)
    out = groups[rows][:, None] == groups[columns] if other_group else rows[:, None] == columns
    nearest = np.where(out, np.inf, distances).min(axis=1)
    return dict(zip(part, nearest.tolist(), strict=True))
