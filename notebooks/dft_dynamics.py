"""Molecular dynamics by DFT, for pair distributions: one small cell, stopped and taken up again at will.

    python notebooks/dft_dynamics.py data/reference/dynamics.extxyz [--ps 0.6]

Crystalline Li3PS4 (16 atoms) at 900 K, Langevin, 2 fs. Settings are those of configs/label/gpaw.yaml but for the
k-points: this is an insulator, and a grid of 10 Å with a shift of a half does. Steps are kept with momenta as they
come; a restart goes on after the last that was written. The noise of the thermostat is seeded by the step.
"""

# %%
import argparse
from pathlib import Path

import ase.io
import numpy as np
import yaml
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from gpaw import GPAW

from finetune.files import write_frames
from finetune.labelling.calculated import with_labels
from finetune.labelling.kpoints import Grid

START = Path("data/structures/experiment/gamma-Li3PS4_Pmn21_ICSD180318_obelix-joc.cif")
TEMPERATURE_K, TIMESTEP_FS, FRICTION_PER_FS = 900.0, 2.0, 0.01
GRID = Grid(length_A=10.0, shift=0.5)
BLOCK = 5  # steps between two writes of the file


# %%
def calculator(atoms: Atoms, log: Path) -> GPAW:
    """GPAW by the settings of the labels, on this grid."""
    labeller = yaml.safe_load(Path("configs/label/gpaw.yaml").read_text())["labeller"]["init_args"]
    own = {"kpts": GRID.points(atoms).tolist(), "symmetry": {"point_group": False}, "txt": str(log)}
    return GPAW(**{**labeller["settings"], **own})


def started() -> Atoms:
    """The crystal with momenta at the temperature."""
    atoms = ase.io.read(START)
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    thermalize_momenta(atoms, temperature_K=TEMPERATURE_K, rng=np.random.default_rng(0))
    return atoms


def main() -> None:
    """Go on until the time is reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--ps", type=float, default=0.6)
    options = parser.parse_args()
    frames = ase.io.read(options.output, ":") if options.output.is_file() else []
    atoms = frames[-1].copy() if frames else started()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    atoms.calc = calculator(atoms, options.output.with_suffix(".gpaw.log"))
    noise = np.random.default_rng(0)
    settings = {"temperature_K": TEMPERATURE_K, "friction": FRICTION_PER_FS / units.fs, "fixcm": False}
    dynamics = Langevin(atoms, TIMESTEP_FS * units.fs, rng=noise, **settings)
    last = round(options.ps * 1000 / TIMESTEP_FS)
    for step in range(len(frames), last):
        noise.bit_generator.state = np.random.default_rng([0, step]).bit_generator.state
        dynamics.run(1)
        frame = with_labels(atoms, atoms.calc)
        frame.set_momenta(atoms.get_momenta())
        frame.info |= {"family": "dynamics", "group": "Li3PS4 900 K", "time_fs": (step + 1) * TIMESTEP_FS}
        frames.append(frame)
        if (step + 1) % BLOCK == 0 or step + 1 == last:
            write_frames(options.output, frames)
        print(
            f"{frame.info['time_fs']:6.0f} fs  {atoms.get_potential_energy():.4f} eV  {atoms.get_temperature():.0f} K"
        )


if __name__ == "__main__":
    main()
