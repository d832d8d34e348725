"""Does a potential survive molecular dynamics? Li7P3S11 at 600 K and Li | Li7P3S11 at 300 K, 5 ps each.

    python notebooks/ace_md.py MODEL [MODEL ...] [--ps 5]

Langevin dynamics, 1 fs. A run fails when two atoms come closer than half the sum of their covalent radii, or when the
temperature exceeds four times that of the thermostat; the table says when, and which atoms.
"""

# %%
import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms, units
from ase.data import covalent_radii
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

import finetune

STRUCTURES = {
    "Li7P3S11": (Path("data/structures/materials_project"), "Li7P3S11_*.cif", 600.0),
    "Li | Li7P3S11": (Path("data/campaign/structures"), "li-li7p3s11.extxyz", 300.0),
}
CLOSE, HOT = 0.5, 4.0


# %%
def closest(atoms: Atoms) -> tuple[float, int, int]:
    """Smallest distance over the sum of covalent radii, and the two atoms."""
    distances = atoms.get_all_distances(mic=True)
    radii = covalent_radii[atoms.numbers]
    ratio = distances / (radii[:, None] + radii) + 10 * np.eye(len(atoms))
    i, j = np.unravel_index(int(ratio.argmin()), ratio.shape)
    return float(ratio[i, j]), int(i), int(j)


def run(model: str, atoms: Atoms, temperature_K: float, ps: float, seed: int = 0) -> str:
    """Run, and say in one line how it went."""
    rng = np.random.default_rng(seed)
    atoms = atoms.copy()
    atoms.calc = finetune.calculator(model)
    thermalize_momenta(atoms, temperature_K=temperature_K, rng=rng)
    settings = {"temperature_K": temperature_K, "friction": 0.01 / units.fs, "fixcm": False}
    dynamics = Langevin(atoms, 1 * units.fs, rng=rng, **settings)
    nearest, hottest = closest(atoms), 0.0
    for step in range(0, round(ps * 1000), 10):
        dynamics.run(10)
        now = closest(atoms)
        nearest, hottest = min(nearest, now), max(hottest, atoms.get_temperature())
        if now[0] < CLOSE or hottest > HOT * temperature_K or not np.isfinite(atoms.get_potential_energy()):
            pair = "-".join(atoms.symbols[k] for k in now[1:])
            what = f"{pair} {now[1:]} at {now[0]:.2f} of their radii, {hottest:.0f} K"
            return f"fails at {(step + 10) / 1000:.2f} ps: {what}"
    pair = "-".join(atoms.symbols[k] for k in nearest[1:])
    return f"{ps:g} ps: closest {pair} at {nearest[0]:.2f} of the covalent radii, hottest {hottest:.0f} K"


def main() -> None:
    """Every model on every structure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--ps", type=float, default=5.0)
    options = parser.parse_args()
    for model in options.models:
        for name, (folder, pattern, temperature_K) in STRUCTURES.items():
            (file,) = folder.glob(pattern)
            atoms = ase.io.read(file, 0)
            print(f"| {model} | {name}, {len(atoms)} atoms, {temperature_K:g} K | ", end="", flush=True)
            print(run(model, atoms, temperature_K, options.ps), "|", flush=True)


if __name__ == "__main__":
    main()
