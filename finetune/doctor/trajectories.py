"""Finite differences inside trajectories: energy changes against the work of forces and stress, without any potential.

Between frames a and b of one group the path is straight in scaled coordinates and cell, so that by the trapezoidal rule

    E_b - E_a = -1/2 (F_a + F_b) · Δr + 1/2 (V_a σ_a h_a⁻¹ + V_b σ_b h_b⁻¹) : Δh + error.

The error is of third order. On Li-P-S crystals, rattled by 0.2 Å and strained, it is a twentieth of |F_b - F_a| |Δr|
and its like for stress; displacements beyond `NEAR` are not used. The curvature -(F_b - F_a) · Δr alone tells the sign
of the forces even at larger displacements, since energies around a trajectory are mostly convex.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase.units import Hartree, Rydberg, kcal, kJ, mol

from finetune.data.frames import Frame
from finetune.doctor.agreement import SMALLEST
from finetune.doctor.findings import Finding
from finetune.doctor.units import FORCES, STRESSES

NEAR = 0.5  # Å, largest displacement of an atom over which the trapezoidal rule is trusted
FAR = 1.0  # Å, the same for the sign of the curvature
MAX_STRAIN = 0.1  # largest component of the change of the cell, relative to it
ALL_PAIRS = 40  # frames of a group up to which all pairs are looked at; beyond it, neighbours in the file
THIRD = 0.05  # error over |F_b - F_a| |Δr|
CHANGE = 0.05  # eV/Å rms, change of the forces beyond the noise of relaxed structures
RELAXED = 0.2  # of the usual change; less is between relaxed structures, which have barriers in between
MOVED = 0.05  # Å, where cells differ too, displacement of an atom from which it decides the change of the forces
MIN_PAIRS = 4
CLEAR = 3.0  # work over its error, root sum of squares, from which the data can tell
SIGMAS = 4.0
RIGHT = (0.4, 2.5)  # energy changes over work, which is 1; the smallest mistake of units but eV/atom is 13.6
UNRELATED = 0.05  # mean cosine of ΔF and -Δr below which forces do not belong to the structures; correct: 0.2 and more
ENERGIES = {"kcal/mol": kcal / mol, "kJ/mol": kJ / mol, "Hartree": Hartree, "Rydberg": Rydberg}
TRAPEZOID = "the work of the forces along trajectories"


@dataclass(frozen=True)
class Step:
    """From one frame of a group to another, all in eV.

    Attributes:
        energy: difference of the labels, NaN where not known.
        work: minus the trapezoidal work of the forces; `bend` is |ΔF| |Δr|.
        strain_work: trapezoidal work of the stress, NaN where not known; `strain_bend` as above.
        cosine: between -ΔF and Δr; NaN where the change of the forces is noise or comes from strain.
        jolt: rms of ΔF, eV/Å.
        furthest: largest displacement of an atom, Å.
        strained: the cell changes.
        atoms: number of atoms.
    """

    energy: float
    work: float
    bend: float
    strain_work: float
    strain_bend: float
    cosine: float
    jolt: float
    furthest: float
    strained: bool
    atoms: int


def finite_differences(frames: Sequence[Frame]) -> list[Finding]:
    """Sign and units of forces and stress, and units of energies, from frames that are close to each other."""
    moves = [step for group in _groups(frames) for step in _steps(group)]
    near = [s for s in moves if s.furthest < NEAR and math.isfinite(s.energy)]
    findings = _sign([s for s in moves if s.furthest < FAR])
    forces = _forces([s for s in near if not s.strained or math.isfinite(s.strain_work)])
    faulty = any(finding.verdict == "fault" for finding in [*findings, forces])
    return [*findings, forces, _stress([s for s in near if s.strained], faulty)]


def _groups(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Frames with forces of one group and the same order of atoms."""
    found: dict[tuple[str, bytes], list[Frame]] = {}
    for frame in frames:
        if "forces" in frame.given:
            found.setdefault((frame.group, frame.atoms.numbers.tobytes()), []).append(frame)
    return list(found.values())


def _steps(group: Sequence[Frame]) -> Iterator[Step]:
    """All pairs of a small group, neighbours in the file of a large one."""
    pairs = itertools.combinations(group, 2) if len(group) <= ALL_PAIRS else itertools.pairwise(group)
    for a, b in pairs:
        step = _step(a, b) if a.structure_hash != b.structure_hash else None
        if step is not None:
            yield step


def _step(a: Frame, b: Frame) -> Step | None:
    """The step between two frames; None where cells are too different or there is nothing to compare."""
    periodic = bool(a.atoms.pbc.any())
    old, new = (frame.atoms.cell.array if periodic else np.eye(3) for frame in (a, b))
    if (a.atoms.pbc != b.atoms.pbc).any() or np.linalg.matrix_rank(old) < 3 or np.linalg.matrix_rank(new) < 3:
        return None
    change = new - old
    strain = np.linalg.solve(old, change)
    if np.abs(strain).max() > MAX_STRAIN:
        return None
    scaled = np.linalg.solve(new.T, b.atoms.positions.T).T - np.linalg.solve(old.T, a.atoms.positions.T).T
    scaled -= np.round(scaled) * a.atoms.pbc
    scaled -= scaled.mean(axis=0)
    moved = scaled @ (old + new) / 2
    forces = [frame.labels.forces.numpy() for frame in (a, b)]
    start, end = (-float((force * moved).sum()) for force in forces)
    pulls = [  # trace(σ h⁻¹ Δh) V is the sum over the components of pull and Δh
        abs(np.linalg.det(cell)) * np.linalg.solve(cell.T, frame.labels.stress.numpy()[0].T)
        for frame, cell in ((a, old), (b, new))
    ]
    strained, furthest = bool(np.abs(strain).max() > 1e-6), float(np.linalg.norm(moved, axis=1).max())
    bend, jolt = float(np.linalg.norm(forces[1] - forces[0]) * np.linalg.norm(moved)), _rms(forces[1] - forces[0])
    return Step(
        energy=float(b.labels.energy - a.labels.energy),
        work=(start + end) / 2,
        bend=bend,
        strain_work=float(((pulls[0] + pulls[1]) / 2 * change).sum()),
        strain_bend=float(np.linalg.norm(pulls[1] - pulls[0]) * np.linalg.norm(change)),
        cosine=(end - start) / bend if jolt > CHANGE and furthest > (MOVED if strained else 0.0) else math.nan,
        jolt=jolt,
        furthest=furthest,
        strained=strained,
        atoms=len(moved),
    )


def _sign(moves: Sequence[Step]) -> list[Finding]:
    """Forces grow against displacements where energies are convex: their sign, and whether they are of these frames."""
    cosines = np.array([s.cosine for s in moves if math.isfinite(s.cosine) and s.atoms >= SMALLEST])
    if len(cosines) < MIN_PAIRS:
        words = f"atoms move by up to {FAR} Å, and forces change, in {len(cosines)} pairs; it takes {MIN_PAIRS}"
        return [Finding("forces along trajectories", "skipped", words)]
    mean, against = cosines.mean(), (cosines > 0).mean()
    words = f"forces grow against the displacement in {100 * against:.0f} % of {len(cosines)} pairs of frames"
    if mean < -UNRELATED and against < 0.5:
        remedy = "give forces, not gradients: multiply by -1"
        return [Finding("forces along trajectories", "fault", f"{words}: their sign is the opposite one", remedy)]
    if mean < UNRELATED and against < 0.8:
        remedy = "look whether they are of other frames or in another order of atoms"
        words += f" (mean cosine {mean:.2f}): they have nothing to do with the structures"
        return [Finding("forces along trajectories", "fault", words, remedy)]
    return [Finding("forces along trajectories", "good", words)]


def _forces(near: Sequence[Step]) -> Finding:
    """Energy changes against the work of the forces: slope 1."""
    check = "energy along trajectories"
    usual = float(np.median([s.jolt for s in near])) if near else 0.0
    near = [s for s in near if s.jolt > RELAXED * usual]
    energy, work = (np.array([getattr(s, name) for s in near]) for name in ("energy", "work"))
    unknown = np.array([abs(s.strain_work) if s.strained else 0.0 for s in near])  # the stress is not trusted here
    error = THIRD * np.array([s.bend for s in near]) + unknown
    slope, sigma, clear = _slope(energy, work, error)
    noise = usual < CHANGE
    related = abs(slope) > SIGMAS * sigma * (2 if noise else 1)
    if clear < CLEAR or (not related and (noise or clear < 2 * SIGMAS)):
        words = f"{len(near)} pairs of frames of one group within {NEAR} Å are too few or too far apart to tell units"
        return Finding(check, "skipped", words, "a few frames of a trajectory a femtosecond apart would tell")
    words = f"energy changes are {slope:.3g} ± {sigma:.2g} times {TRAPEZOID} ({len(near)} pairs)"
    if not related and slope < RIGHT[0]:
        return Finding(check, "fault", words, "look whether energies and forces are of the same frames, in eV and eV/Å")
    if RIGHT[0] < slope < RIGHT[1]:
        return Finding(check, "good", f"{words}; 1 is right")
    size = float(np.mean([s.atoms for s in near]))
    likely = {f"forces in {name}": size for name, size in FORCES.items()}
    likely |= {f"energies in {name}": 1 / size for name, size in ENERGIES.items()}
    likely |= {"energies in eV/atom": 1 / size, "energies in meV": 1e3}
    return Finding(check, "fault", words, _remedy(slope, likely, "total energies in eV and forces in eV/Å"))


def _stress(strained: Sequence[Step], faulty: bool) -> Finding:
    """What the work of the forces leaves of energy changes, against the work of the stress: slope 1."""
    check = "stress along trajectories"
    known = [s for s in strained if math.isfinite(s.strain_work)]
    if faulty or not known:
        words = "no frames of one group with stress whose cells differ" if not known else "forces are at fault already"
        return Finding(check, "skipped", words)
    energy = np.array([s.energy - s.work for s in known])
    work = np.array([s.strain_work for s in known])
    error = THIRD * np.array([s.bend + s.strain_bend for s in known])
    slope, sigma, clear = _slope(energy, work, error)
    if clear < CLEAR or abs(slope) < SIGMAS * sigma:
        words = f"{len(known)} pairs of frames with different cells are too few or too far apart to tell"
        return Finding(check, "skipped", words, "a few cells of one crystal that differ by strain alone would tell")
    words = f"energy changes are {slope:.3g} ± {sigma:.2g} times the work of the stress ({len(known)} pairs)"
    if RIGHT[0] < slope < RIGHT[1]:
        return Finding(check, "good", f"{words}; 1 is right")
    likely = {f"stress in {name}": size for name, size in STRESSES.items()}
    return Finding(check, "fault", words, _remedy(slope, likely, "eV/Å³, positive under tension"))


def _slope(energy: np.ndarray, work: np.ndarray, error: np.ndarray) -> tuple[float, float, float]:
    """Weighted slope of energy against work through the origin, its standard error, and work over error.

    The standard error is that of the scatter, which does not depend on units; 0 clear where pairs are too few.
    """
    use = (error > 1e-9) & np.isfinite(energy)
    energy, work, error = energy[use], work[use], error[use]
    if len(energy) < MIN_PAIRS:
        return math.nan, math.nan, 0.0
    weight = float(((work / error) ** 2).sum())
    slope = float((energy * work / error**2).sum()) / weight
    scatter = math.sqrt(float((((energy - slope * work) / error) ** 2).sum()) / (len(energy) - 1))
    return slope, scatter / math.sqrt(weight), math.sqrt(weight)


def _remedy(slope: float, likely: dict[str, float], wanted: str) -> str:
    """Which units and signs make energy changes `slope` times the work, and what to give instead."""
    near = [name for name, factor in likely.items() if abs(math.log(abs(slope) / factor)) < math.log(1.5)]
    reasons = [f"this is what {' or '.join(near)} would give"] if near else []
    reasons += ["one of them has the opposite sign"] if slope < 0 else []
    return "; ".join([*reasons, f"give {wanted}"])


def _rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt((values**2).mean()))
