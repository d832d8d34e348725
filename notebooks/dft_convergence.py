"""How far DFT settings are from a converged calculation: forces, energy and stress, for the families of data/starting.

Run from the top of the repository, with GPAW (extra `gpaw`); some hours on one core, and it goes on where it stopped:

    python notebooks/dft_convergence.py

Results come into data/convergence.json; what is there is not computed again. `--table` only prints.
"""

# %%
import json
import sys
from concurrent.futures import as_completed
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from finetune.files import write_text
from finetune.labelling import Calculated, Grid, Processes
from finetune.labelling.store import identity

RESULTS = Path("data/convergence.json")
FAMILIES = {  # made_by of the frames: a metal, a metallic glass, a glass, interfaces with a metal
    "Li metal, 16 atoms": ("crystal Li", 1),
    "Li2P melt, 18 atoms": ("amorphous Li2P_1500K_160fs", 0),
    "Li7P3S11 glass, 21 atoms": ("amorphous Li7P3S11+0Li_600K_240fs", 0),
    "Li13P3S11 glass, 27 atoms": ("amorphous Li7P3S11+6Li_1500K_320fs", 0),
    "Li | Li3P, 12 atoms": ("interface Li|Li3P_1000K_160fs", 0),
    "Li | Li2S, 20 atoms": ("interface Li|Li2S_1000K_320fs", 0),
}
# cutoff (eV), smearing (Fermi-Dirac, eV), length of the grid (Å), shift; the first of each family is the reference
GRIDS = {
    "Li metal, 16 atoms": [(20, 0.25), (20, 0.0), (15, 0.25), (13, 0.25), (13, 0.5)],
    "Li2P melt, 18 atoms": [(27, 0.25), (15, 0.25), (15, 0.5), (15, 0.0), (13, 0.25)],
    "Li7P3S11 glass, 21 atoms": [(21, 0.25), (15, 0.25), (15, 0.5)],
    "Li13P3S11 glass, 27 atoms": [(20, 0.25), (15, 0.25), (15, 0.5)],
    "Li | Li3P, 12 atoms": [(24, 0.25), (20, 0.25), (16, 0.25), (15, 0.25), (12.5, 0.25), (12.5, 0.5)],
    "Li | Li2S, 20 atoms": [(20, 0.25), (15, 0.25), (12.5, 0.25), (12.5, 0.5)],
}
CUTOFFS = {"Li | Li3P, 12 atoms": 12.0, "Li2P melt, 18 atoms": 7, "Li7P3S11 glass, 21 atoms": 7}  # at so coarse a grid


# %%
def frames() -> dict[str, Atoms]:
    """The frame of each family."""
    everything = [atoms for path in sorted(Path("data/starting").glob("*.extxyz")) for atoms in ase.io.read(path, ":")]
    found = {}
    for name, (made_by, index) in FAMILIES.items():
        alike = sorted((a for a in everything if a.info["made_by"] == made_by), key=identity)
        found[name] = alike[index]
    return found


def labeller(ecut: float, width: float, length_A: float, shift: float) -> Calculated:
    """GPAW as in configs/label/gpaw.yaml, with other settings."""
    settings = {"mode": {"name": "pw", "ecut": ecut}, "xc": "PBE", "kpts": "{kpoints}", "txt": None}
    settings |= {"occupations": {"name": "fermi-dirac", "width": width}}
    settings |= {"convergence": {"energy": 5e-5, "density": 1e-4}}
    return Calculated("gpaw.GPAW", settings, kpoints=Grid(float(length_A), shift))


def key(name: str, atoms: Atoms, ecut: float, width: float, length_A: float, shift: float) -> str:
    """A calculation in words; grids of the same size are the same."""
    return f"{name}; {ecut:g} eV; {width:g} eV; {Grid(float(length_A), shift).size(atoms)} + {shift:g}"


def wanted() -> list[tuple[str, tuple[float, float, float, float]]]:
    """Families and settings: cutoffs at a coarse grid, grids, and a wider smearing at the grid that was chosen."""
    cutoffs = [(name, (e, 0.1, length, 0.25)) for name, length in CUTOFFS.items() for e in (600.0, 500.0, 400.0, 350.0)]
    grids = [(name, (400.0, 0.1, *grid)) for name, chosen in GRIDS.items() for grid in chosen]
    return cutoffs + grids + [(name, (400.0, 0.2, *GRIDS[name][1])) for name in GRIDS]


def reference(name: str, setting: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """What a setting is compared with: the highest cutoff at the same grid, or the densest grid."""
    if setting[2] == CUTOFFS.get(name) and setting[3] == 0.25:
        return (600.0, 0.1, setting[2], 0.25)
    return (400.0, 0.1, *GRIDS[name][0])


def compute(given: dict[str, Atoms], results: dict[str, dict]) -> None:
    """Run what is missing, small frames first, and write every result as it comes."""
    jobs = {key(name, given[name], *setting): (name, setting) for name, setting in wanted()}
    with Processes() as executor:
        running = {executor.submit(labeller(*s).label, given[n]): k for k, (n, s) in jobs.items() if k not in results}
        for future in as_completed(running):
            outcome = future.result()
            if outcome.atoms is None:
                print(running[future], outcome.reasons, flush=True)
                continue
            info, forces = outcome.atoms.info, outcome.atoms.arrays["REF_forces"]
            result = {"energy": info["REF_energy"], "stress": info["REF_stress"].tolist(), "forces": forces.tolist()}
            results[running[future]] = {**result, "wall_s": info["wall_s"]}
            write_text(RESULTS, json.dumps(results, indent=0))
            print(running[future], info["wall_s"], "s", flush=True)


# %%
def table(given: dict[str, Atoms], results: dict[str, dict]) -> None:
    """Differences from the reference of each family."""
    print(
        "| frame | cutoff, eV | smearing, eV | k-points | energy, meV/atom | forces, meV/Å rms | stress, meV/Å³ rms |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, setting in wanted():
        reference = (
            (600.0, 0.1, CUTOFFS[name], 0.25) if setting[2] == CUTOFFS.get(name) else (400.0, 0.1, *GRIDS[name][0])
        )
        one, other = (results.get(key(name, given[name], *s)) for s in (setting, reference))
        if one is None or other is None or setting == reference:
            continue
        energy = 1e3 * (one["energy"] - other["energy"]) / len(given[name])
        forces, stress = (1e3 * np.sqrt(np.mean((np.array(one[k]) - other[k]) ** 2)) for k in ("forces", "stress"))
        ecut, width, length, shift = setting
        grid = "x".join(map(str, Grid(float(length), shift).size(given[name])))
        print(f"| {name} | {ecut:g} | {width:g} | {grid} + {shift:g} | {energy:.1f} | {forces:.1f} | {stress:.2f} |")


def main() -> None:
    """Compute what is missing, then print the table."""
    given = frames()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if "--table" not in sys.argv:
        compute(given, results)
    table(given, results)


if __name__ == "__main__":
    main()
