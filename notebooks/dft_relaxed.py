"""Crystals relaxed by DFT, cell and ions: the energies of the phases; stopped and taken up again at will.

    python notebooks/dft_relaxed.py data/reference/relaxed.extxyz [--only Li2S]

Each phase begins at the volume of lowest energy among data/reference/equations-of-state.extxyz, keeps its symmetry, and
has the k-points of its equation of state. Steps are kept in runs/relaxed and a restart goes on after the last. The
cell is relaxed with a fixed cutoff of plane waves, and the last point is a new calculation in the relaxed cell. Steps
begin from the Hessian of CHGNet, which shows which motions are soft: it decides how many there are, not where they end.
"""

# %%
import argparse
from pathlib import Path

import ase.io
import numpy as np
import yaml
from ase import Atoms
from ase.constraints import FixSymmetry
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from gpaw import GPAW

import finetune
from finetune.files import write_frames
from finetune.labelling.calculated import with_labels
from finetune.labelling.kpoints import Grid

STATES = Path("data/reference/equations-of-state.extxyz")
SETTINGS = dict.fromkeys(("Li", "Li2S", "Li3P", "LiP"), "gpaw-dense") | {"Li7P3S11": "gpaw-insulators"}
PLACE = Path("runs/relaxed")
FMAX = 0.02  # eV/Å
MOVE = 0.02  # Å, of finite differences
SOFTEST = 4.0  # eV/Å², of the Hessian that steps begin with


# %%
def calculator(phase: str, atoms: Atoms) -> GPAW:
    """GPAW by the settings and on the grid of the phase's equation of state."""
    settings = yaml.safe_load(Path(f"configs/label/{SETTINGS.get(phase, 'gpaw')}.yaml").read_text())
    given = settings["labeller"]["init_args"]
    grid = Grid(**given["kpoints"])
    return GPAW(**{**given["settings"], "kpts": grid.points(atoms).tolist(), "txt": str(PLACE / f"{phase}.log")})


def hessian(atoms: Atoms) -> np.ndarray:
    """Second derivatives of CHGNet's energy by the degrees of freedom of ions and cell, in eV/Å², none too soft."""
    moved = FrechetCellFilter(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))
    moved.atoms.calc = finetune.calculator("chgnet")
    start = moved.get_positions()
    rows = []
    for k in range(start.size):
        forces = []
        for sign in (1, -1):
            step = np.zeros(start.size)
            step[k] = sign * MOVE
            moved.set_positions(start + step.reshape(start.shape))
            forces.append(moved.get_forces().ravel())
        rows.append((forces[1] - forces[0]) / (2 * MOVE))
    values, vectors = np.linalg.eigh((np.array(rows) + np.array(rows).T) / 2)
    return vectors @ np.diag(np.maximum(np.abs(values), SOFTEST)) @ vectors.T


def relaxed(phase: str, start: Atoms) -> Atoms:
    """The phase with labels in its relaxed cell."""
    path = PLACE / f"{phase}.traj"
    begun = path.is_file() and path.stat().st_size > 0
    atoms = ase.io.read(path, -1) if begun else Atoms(start.numbers, start.positions, cell=start.cell, pbc=True)
    atoms.calc = calculator(phase, atoms)
    atoms.set_constraint(FixSymmetry(atoms))
    steps = BFGS(FrechetCellFilter(atoms), trajectory=str(path), append_trajectory=True, logfile="-")
    steps.H0 = hessian(atoms)
    steps.run(fmax=FMAX)
    atoms.set_constraint()
    atoms.calc = calculator(phase, atoms)
    frame = with_labels(atoms, atoms.calc)
    frame.info |= {"family": "relaxed", "group": phase, "made_by": "python notebooks/dft_relaxed.py"}
    return frame


def main() -> None:
    """Relax what is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", nargs="*", help="phases by name; default: all")
    options = parser.parse_args()
    PLACE.mkdir(parents=True, exist_ok=True)
    lowest: dict[str, Atoms] = {}
    for atoms in ase.io.read(STATES, ":"):
        phase, energy = atoms.info["group"], atoms.info["REF_energy"] / len(atoms)
        if phase not in lowest or energy < lowest[phase].info["REF_energy"] / len(lowest[phase]):
            lowest[phase] = atoms
    for phase, start in sorted(lowest.items(), key=lambda item: len(item[1])):
        frames = ase.io.read(options.output, ":") if options.output.is_file() else []
        done = {frame.info["group"] for frame in frames}
        if phase in done or (options.only and phase not in options.only):
            continue
        frame = relaxed(phase, start)
        write_frames(options.output, [*frames, frame])
        force = np.linalg.norm(frame.arrays["REF_forces"], axis=1).max()
        volume = frame.get_volume() / len(frame)
        print(f"{phase}: {frame.info['REF_energy'] / len(frame):.4f} eV/atom, {volume:.3f} Å³/atom, {force:.3f} eV/Å")


if __name__ == "__main__":
    main()
