"""What must hold for frames before anything is trained on them; every problem names its frame."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ase.geometry import complete_cell
from vesin import NeighborList

from finetune.data.constrained import REMEDY, constrained
from finetune.data.frames import Frame, full_stress
from finetune.data.structures import unknown_elements
from finetune.data.zeros import zero_forces, zero_stresses
from finetune.errors import InputError
from finetune.graph import MAX_POSITION

MIN_DISTANCE = 0.3  # Å; no two nuclei come this close in a DFT calculation that means anything
SEARCH = 3.0  # Å; the cell list of vesin is quickest with cells that hold about one atom
MAX_FORCE = 1000.0  # eV/Å; larger ones are another unit or a broken calculation
MAX_ENERGY = 1e7  # eV/atom; beyond all electrons of the heaviest element
MAX_ONE_STRESS = 1e6  # eV/Å³; beyond any unit that is in use
FEWEST_DIGITS = 5  # labels from which on all of them being rounded is no chance
MAX_STRESS = 1.0  # eV/Å³, 160 GPa; if half of all frames exceed it, it is another unit
NET_FORCE = 0.1  # share of the sum of |F| that may be left over in the vector sum
SHOWN = 5


def check(frames: Sequence[Frame], labelled: bool = True) -> None:
    """Stop at frames that cannot be used, with the first problems and their number.

    Args:
        frames: as read, in any order.
        labelled: every frame must have a label; False for structures to predict.

    Raises:
        InputError: labels that are not finite, have the wrong shape or are absurd, a frame without any label, no atoms,
            atoms on top of each other, positions that are not finite, a periodic cell without volume, stress without a
            cell.
    """
    found = [f"{frame.where()} {problem}" for frame in frames for problem in problems(frame, labelled)]
    if found:
        rest = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
        head = [f"{len(found)} problems in {len(frames)} frames:"] if len(found) > 1 else []
        raise InputError("\n  ".join([*head, *found[:SHOWN], *rest]))


def problems(frame: Frame, labelled: bool = True) -> Iterator[str]:
    """What is wrong with a frame, each with its remedy."""
    yield from _structure_problems(frame)
    if not labelled:
        return
    if not frame.given:
        yield "has no energy, forces or stress; label it or drop it"
    for name in frame.given:
        yield from _label_problems(frame, name)


def check_units(frames: Sequence[Frame]) -> None:
    """Stop at labels whose unit is wrong beyond doubt, as far as the labels alone can tell; `check` must have passed.

    What needs a second opinion (sign of the stress, forces of other frames or in another order, GPa near equilibrium)
    shows in the comparison with a foundation model instead.

    Raises:
        InputError: energies per atom instead of per structure; stresses that are beyond 160 GPa in half of the frames.
    """
    ratio = intensive_energy_ratio(frames)
    if ratio < 0.5:
        raise InputError(
            f"the energies of {frames[0].source} do not grow with the number of atoms (they fit "
            f"{1 / ratio:.1f} times better as eV/atom than as eV); give the total energy of each structure, eV"
        )
    stresses = [np.abs(frame.labels.stress.numpy()).max() for frame in frames if "stress" in frame.given]
    if stresses and np.median(stresses) > MAX_STRESS:
        raise InputError(
            f"half of the stresses of {frames[0].source} exceed {np.median(stresses):.3g} eV/Å³, which is "
            f"{np.median(stresses) * 160.2:.0f} GPa; if they are in GPa multiply them by 0.0062415, kbar by "
            "0.00062415, bar by 6.2415e-7, and mind the sign: positive under tension"
        )
    for words in filter(None, (zero_stresses(frames), zero_forces(frames))):
        warnings.warn(words, stacklevel=2)
    for words in rounded(frames):
        warnings.warn(words, stacklevel=2)
    _warn_net_force(frames)
    for found in constrained(frames):
        warnings.warn(f"{found}; {REMEDY}", stacklevel=2)


def rounded(frames: Sequence[Frame]) -> list[str]:
    """Return warnings about labels that were written with too few digits to learn from."""
    found = []
    for name, unit, least in (("energy", "eV", 5e-4), ("forces", "eV/Å", 5e-3), ("stress", "eV/Å³", 5e-4)):
        known = [frame for frame in frames if name in frame.given]
        if not known:
            continue
        values = np.concatenate([getattr(frame.labels, name).numpy().ravel() for frame in known])
        values = values[np.isfinite(values) & (values != 0)]
        steps = [step for step in (1.0, 0.1, 0.01) if np.allclose(values, np.round(values / step) * step, 0, 1e-9)]
        if len(values) < FEWEST_DIGITS or not steps:
            continue
        error = steps[0] / np.sqrt(12.0) / (np.mean([len(f.atoms) for f in known]) if name == "energy" else 1.0)
        if error > least:
            per = "eV/atom" if name == "energy" else unit
            found.append(
                f"{name} of {known[0].source}: all labels are multiples of {steps[0]:g} {unit}, an error of "
                f"{1e3 * error:.2g} m{per} rms. Write them with all their digits"
            )
    return found


def intensive_energy_ratio(frames: Sequence[Frame]) -> float:
    """Misfit of energies that depend on composition only, over misfit of energies that are proportional to the atoms.

    Least squares of E on the atomic fractions, and on the numbers of atoms of each element; well above 1 for total
    energies, near 0.2 for energies per atom. Infinity where the frames cannot tell: fewer than four per element, or all
    of one size.
    """
    known = [frame for frame in frames if "energy" in frame.given]
    elements = sorted({int(z) for frame in known for z in frame.atoms.numbers})
    sizes = np.array([len(frame.atoms) for frame in known], dtype=float)
    if len(known) < max(8, 4 * len(elements)) or sizes.std() < 0.1 * sizes.mean():
        return float("inf")
    counts = np.array([[np.sum(frame.atoms.numbers == z) for z in elements] for frame in known], dtype=float)
    energies = np.array([float(frame.labels.energy) for frame in known])
    intensive, extensive = _misfit(counts / sizes[:, None], energies), _misfit(counts, energies)
    return intensive / extensive if extensive > 1e-9 else float("inf")


def _misfit(features: np.ndarray, values: np.ndarray) -> float:
    """Root mean square residual of a linear least-squares fit."""
    residual = values - features @ np.linalg.lstsq(features, values, rcond=None)[0]
    return float(np.sqrt(np.mean(residual**2)))


def _warn_net_force(frames: Sequence[Frame]) -> None:
    """Say where forces do not add up to zero, as those of every isolated system do."""
    known = [frame for frame in frames if "forces" in frame.given and len(frame.atoms) > 1]
    sums = np.array([np.linalg.norm(frame.labels.forces.sum(dim=0)) for frame in known])
    totals = np.array([np.linalg.norm(frame.labels.forces, axis=1).sum() for frame in known])
    bad = np.flatnonzero((sums > 0.5) & (sums > NET_FORCE * totals))
    if len(bad):
        warnings.warn(
            f"forces of {len(bad)} of {len(known)} frames do not add up to zero, first {known[bad[0]].where()} with "
            f"{sums[bad[0]]:.2f} eV/Å left over; are they complete, unconstrained and of the right frame?",
            stacklevel=2,
        )


def _structure_problems(frame: Frame) -> Iterator[str]:
    atoms = frame.atoms
    if not len(atoms):
        yield "has no atoms; drop it"
    elif not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        yield "has positions or a cell that are not finite numbers; mend or drop it"
    elif strange := unknown_elements(atoms):
        yield f"has element {strange[0]}, which is not known; a vacancy or dummy is no atom: leave it out"
    elif max(np.abs(atoms.positions).max(), np.abs(atoms.cell.array).max()) > MAX_POSITION:
        farthest = max(np.abs(atoms.positions).max(), np.abs(atoms.cell.array).max())
        yield f"has positions or a cell of {farthest:.3g} Å; check the unit (Å) or drop it"
    elif (atoms.pbc & ~atoms.cell.array.any(axis=1)).any() or (
        atoms.pbc.any() and abs(np.linalg.det(complete_cell(atoms.cell))) < 1e-6
    ):
        named = next((key for key in atoms.info if key.lower() in ("lattice", "cell")), None)
        remedy = f"`{named}` is not read as its cell: write `Lattice`" if named else "set the cell or set pbc to False"
        yield f"is periodic, but its cell has zero volume; {remedy}"
    else:
        box = complete_cell(atoms.cell) if atoms.pbc.any() else np.zeros((3, 3))
        pairs = NeighborList(cutoff=SEARCH, full_list=False, n_threads=1)
        i, j, distances = pairs.compute(atoms.positions, box, periodic=atoms.pbc, quantities="ijd")
        if distances.min(initial=SEARCH) < MIN_DISTANCE:
            k = int(np.argmin(distances))
            yield f"has atoms {i[k]} and {j[k]} on top of each other ({distances[k]:.2g} Å apart); mend or drop it"


def _label_problems(frame: Frame, name: str) -> Iterator[str]:
    n = len(frame.atoms)
    allowed: dict[str, list[tuple[int, ...]]] = {
        "energy": [(), (1,)],
        "forces": [(n, 3)],
        "stress": [(3, 3), (6,), (9,)],
        "magmoms": [(n,), (n, 1)],
    }
    shapes = allowed[name]
    number = _as_numbers(frame.given[name])
    if number is None:
        got = repr(frame.given[name])
        bare = " (a key without a value, as ASE writes None)" if frame.given[name] is True else ""
        bare = " (a key without a value)" if isinstance(frame.given[name], str) and not frame.given[name] else bare
        yield f"has {name} {got:.40}{bare}, which is not a number; mend it or leave the label out"
        return
    value = number
    if value.shape not in shapes:
        wanted = " or ".join(map(str, shapes))
        yield f"has {name} of shape {value.shape}, and it must be {wanted}; mend it or drop it"
    elif not np.isfinite(value).all():
        count = f"{np.sum(~np.isfinite(value))} of {value.size} values" if value.size > 1 else "a value"
        yield f"has {name} with {count} that are NaN or infinite; leave the label out where it is not known"
    elif name == "energy" and abs(value.item()) > MAX_ENERGY * n:
        yield f"has an energy of {value.item():.3g} eV for {n} atoms; check the unit (eV) or drop it"
    elif name == "stress" and np.abs(value).max() > MAX_ONE_STRESS:
        yield f"has a stress of {np.abs(value).max():.3g} eV/Å³; check the unit (eV/Å³) or drop it"
    elif name == "forces" and np.abs(value).max(initial=0) > MAX_FORCE:
        yield f"has a force of {np.abs(value).max():.3g} eV/Å; check the unit (eV/Å) or drop it"
    elif name == "stress" and frame.atoms.cell.rank < 3:
        yield "has a stress but no full cell; set the cell or leave the stress out"
    elif name == "stress" and not np.allclose(full_stress(value), full_stress(value).T, atol=1e-3):
        yield "has a stress that is not symmetric; give 3x3 or xx yy zz yz xz xy"


def _as_numbers(given: Any) -> np.ndarray | None:
    """A label as float64; None where it is made of texts, booleans, None or lists of unequal lengths."""
    try:
        array = np.asarray(given)
        return array.astype(np.float64) if array.dtype.kind in "iuf" else None
    except (ValueError, TypeError):
        return None
