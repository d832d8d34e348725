"""Guards on sane dynamics: 5 ps of Li7P3S11, Li2S and Li at 300 and 600 K, and what each guard measured.

    python notebooks/md_guards.py [MODEL] [--ps 5]

Prints what was raised (nothing should be) and how near the measures came to their limits. Stopped, it goes on.
"""

# %%
import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk

import finetune
from finetune.md import GUARDS, Langevin, LostBonding, Output, PhaseSeparation, Stage, Voids, simulate

RUNS = Path("runs/md-guards")
FOLDER = Path("data/structures/materials_project")


# %%
def structures() -> dict[str, Atoms]:
    """The three crystals, in cells of 42 to 96 atoms."""
    glass = ase.io.read(FOLDER / "Li7P3S11_mp-641703-GGA.cif").repeat((2, 1, 1))
    sulphide = ase.io.read(FOLDER / "Li2S_mp-1153-r2SCAN.cif").repeat((3, 3, 2))
    found = {"Li7P3S11": glass, "Li2S": sulphide, "Li": bulk("Li", "bcc", a=3.44, cubic=True).repeat(3)}
    return {name: Atoms(a.numbers, a.positions, cell=a.cell, pbc=True) for name, a in found.items()}


def measures(directory: Path) -> str:
    """Largest growth of voids, demixing and local variation in a trajectory."""
    frames = ase.io.read(directory / "trajectory.extxyz", ":")
    radii = [Voids().measure(atoms)[0] for atoms in frames]
    phases = [PhaseSeparation().measure(atoms) for atoms in frames]
    demixing = max(p["demixing"][z] / max(phases[0]["demixing"][z], 1) for p in phases for z in p["demixing"])
    grown = {name: max(p[name] for p in phases) - phases[0][name] for name in ("density", "composition")}
    log = np.genfromtxt(directory / "log.csv", delimiter=",", names=True)
    heat = (log["temperature_K"] / log["target_K"]).max()
    return (
        f"| {heat:.2f} | {np.abs(log['pressure_GPa']).max():.1f} | {max(radii) - radii[0]:.2f} | {demixing:.2f} "
        f"| {grown['density']:.2f} | {grown['composition']:.2f} |"
    )


def main() -> None:
    """All runs and the table for the documentation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="chgnet")
    parser.add_argument("--ps", type=float, default=5.0)
    options = parser.parse_args()
    guards = [*GUARDS, LostBonding(centre="P", ligand="S", cutoff_A=2.7)]
    print("| structure | atoms | K | raised | T / target | GPa | void, Å | demixing | density | composition |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, atoms in structures().items():
        for kelvin in (300.0, 600.0):
            directory = RUNS / options.model.replace(":", "-").replace("/", "-") / f"{name}-{kelvin:.0f}"
            there = atoms.copy()
            there.calc = finetune.calculator(options.model, dtype="float32")
            stage = Stage(Langevin(temperature_K=kelvin, timestep_fs=2.0), ps=options.ps)
            outcome = simulate(there, [stage], directory, guards, Output(every=25), progress=False)
            events = (directory / "guards.csv").read_text().splitlines()[1:]
            raised = ", ".join(event.split(",")[2] for event in events) or "nothing"
            if outcome.alarm is not None:
                raised += f", stopped at {outcome.time_ps:.2f} ps"
            print(f"| {name} | {len(atoms)} | {kelvin:.0f} | {raised} {measures(directory)}", flush=True)


if __name__ == "__main__":
    main()
