"""Bonding of nonmetal atoms beside crystals of the same elements: a false glass is found before DFT is paid for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from pymatgen.core import Element

from finetune.data.frames import Frame
from finetune.doctor.findings import Finding, some
from finetune.graph import pairs_within

REACH = 1.25  # of the sum of the covalent radii: P-S 2.65 Å, P-P 2.68 Å, S-S 2.63 Å
FAMILIAR = 0.5  # smallest share of the atoms of an element in a family that are bonded as in the crystals
FEWEST = 10  # atoms of an element in a family; a share of fewer means little
CHECK = "bonding"

Environment = tuple[str, ...]


def environments(atoms: Atoms) -> list[Environment | None]:
    """Symbols of the bonded nonmetal neighbours of each nonmetal atom, sorted; None for atoms of metals.

    Two nonmetal atoms are bonded within `REACH` times the sum of their covalent radii. Bonds to metals are ionic or
    metallic: their coordination changes with temperature, and distances do not define it.
    """
    covalent = np.array([not Element.from_Z(int(z)).is_metal for z in atoms.numbers])
    found: list[Environment | None] = [() if one else None for one in covalent]
    if not covalent.any():
        return found
    chosen = np.flatnonzero(covalent)
    part = atoms[chosen]
    radii = covalent_radii[part.numbers]
    pairs = pairs_within(part, 2 * REACH * float(radii.max()))
    i, j = pairs.i.numpy(), pairs.j.numpy()
    shifts = pairs.shifts.numpy() @ part.cell.array
    distances = np.linalg.norm(part.positions[j] - part.positions[i] + shifts, axis=1)
    bonded = distances < REACH * (radii[i] + radii[j])
    neighbours: list[list[str]] = [[] for _ in chosen]
    for a, b in zip(i[bonded], j[bonded], strict=True):
        neighbours[a].append(chemical_symbols[part.numbers[b]])
        neighbours[b].append(chemical_symbols[part.numbers[a]])
    for place, names in zip(chosen, neighbours, strict=True):
        found[place] = tuple(sorted(names))
    return found


def bonding(frames: Sequence[Frame], crystals: Sequence[Frame] | None) -> list[Finding]:
    """Share of the atoms of each nonmetal and family that are bonded as some atom of the crystals is.

    Args:
        frames: structures, labelled or not.
        crystals: crystals of the elements of the frames; None where the user gave none.
    """
    if crystals is None:
        return [Finding(CHECK, "skipped", "no crystals to compare with", "give --crystals FILES of the same elements")]
    known: dict[str, set[Environment]] = {}
    for symbol, environment in environments_of(frame.atoms for frame in crystals):
        known.setdefault(symbol, set()).add(environment)
    counts: dict[tuple[str, str], Counter[Environment]] = {}
    for frame in frames:
        for symbol, environment in environments_of([frame.atoms]):
            counts.setdefault((frame.family, symbol), Counter())[environment] += 1
    if not counts:
        return [Finding(CHECK, "skipped", "the frames have no nonmetals, whose bonds could be compared")]
    findings = []
    unknown = sorted({symbol for _, symbol in counts if symbol not in known})
    if unknown:
        words = f"no crystal has {some(unknown)}, whose bonds are not compared"
        findings.append(Finding(CHECK, "skipped", words, "give crystals of them too (--crystals)"))
    shares = {
        (family, symbol): sum(number for environment, number in seen.items() if environment in known[symbol])
        / sum(seen.values())
        for (family, symbol), seen in sorted(counts.items())
        if symbol in known and sum(seen.values()) >= FEWEST
    }
    return [*findings, *_verdict(shares, counts, known, len(crystals))]


def _verdict(
    shares: Mapping[tuple[str, str], float],
    counts: Mapping[tuple[str, str], Counter[Environment]],
    known: Mapping[str, set[Environment]],
    crystals: int,
) -> list[Finding]:
    """The shares in words: the strange ones, or all where none is."""
    start = f"atoms that are bonded as in the {crystals} crystals: "
    bad = [
        f"{symbol} in {family} {share:.0%}, most of the others {_most(counts[family, symbol], known[symbol])}"
        for (family, symbol), share in shares.items()
        if share < FAMILIAR
    ]
    if bad:
        remedy = "build glasses from whole units (finetune sample: PackedUnits) and anneal them; hot melts may differ"
        return [Finding(CHECK, "warning", start + "; ".join(bad), remedy)]
    good = [f"{symbol} in {family} {share:.0%}" for (family, symbol), share in shares.items()]
    return [Finding(CHECK, "good", start + ", ".join(good))] if good else []


def environments_of(structures: Iterable[Atoms]) -> list[tuple[str, Environment]]:
    """Symbol and environment of every nonmetal atom of some structures."""
    return [
        (str(symbol), environment)
        for atoms in structures
        for symbol, environment in zip(atoms.symbols, environments(atoms), strict=True)
        if environment is not None
    ]


def _most(seen: Counter[Environment], known: set[Environment]) -> str:
    """The most frequent environment that no crystal has, as `S2P1 (24 %)`."""
    environment, number = Counter({e: n for e, n in seen.items() if e not in known}).most_common(1)[0]
    text = "".join(f"{symbol}{count}" for symbol, count in sorted(Counter(environment).items()))
    return f"{text or 'without neighbours'} ({number / sum(seen.values()):.0%})"
