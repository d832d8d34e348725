"""A small disordered cell with intact P-S units for the convergence test.

Run from the top of the repository; some minutes on one core:

    python notebooks/dft_convergence_frames.py

Writes data/convergence-frames.extxyz: Li7P3S11 in 21 atoms, one PS4, one P2S7 and seven Li packed at 1.9 g/cm³ and
relaxed, then 3 ps at 600 K (first frame), relaxed, then 1 ps at 300 K (second frame); CHGNet 0.3.0, Langevin, 2 fs.
`p_with_four_s` is the fraction of P atoms with exactly four S within 2.6 Å.
"""

# %%
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.neighborlist import neighbor_list
from ase.optimize import FIRE
from scipy.spatial.transform import Rotation

from finetune.files import write_frames

OUTPUT = Path("data/convergence-frames.extxyz")
BOND_A, BRIDGE_A, APART_A = (
    2.05,
    2.13,
    2.3,
)  # P-S, P-S of a bridging S, least distance between units
TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)


# %%
def ps4() -> Atoms:
    """A PS4 tetrahedron."""
    return Atoms("PS4", np.vstack([np.zeros(3), BOND_A * TETRAHEDRON]))


def p2s7() -> Atoms:
    """Two PS4 tetrahedra that share a corner, with an angle of 112° at the bridging S."""
    half = np.radians(112) / 2
    symbols, positions = ["S"], [np.zeros(3)]
    for sign in (1, -1):
        towards = np.array([sign * np.sin(half), 0.0, np.cos(half)])  # from the bridge to this P
        turn = Rotation.align_vectors([-towards], [TETRAHEDRON[0]])[0]
        centre = BRIDGE_A * towards
        symbols += ["P", "S", "S", "S"]
        positions += [centre, *(centre + BOND_A * turn.apply(TETRAHEDRON[1:]))]
    return Atoms("".join(symbols), positions)


def packed(units_: list[Atoms], length_A: float, rng: np.random.Generator) -> Atoms:
    """Units in a periodic cube, turned and placed at random, with no contact below `APART_A`."""
    while True:
        whole = Atoms(cell=[length_A] * 3, pbc=True)
        for unit in units_:
            for _ in range(2000):
                placed = unit.copy()
                placed.positions = Rotation.random(rng=rng).apply(placed.positions) + rng.uniform(0, length_A, 3)
                trial = whole + placed
                distances = trial.get_all_distances(mic=True)[: len(whole), len(whole) :]
                if not distances.size or distances.min() > APART_A:
                    whole = trial
                    break
            else:
                break
        else:
            return whole


def four(atoms: Atoms) -> float:
    """Fraction of the P atoms with exactly four S within 2.6 Å."""
    i, j = neighbor_list("ij", atoms, 2.6)
    counts = [np.sum((i == k) & (atoms.numbers[j] == 16)) for k in np.flatnonzero(atoms.numbers == 15)]
    return float(np.mean(np.array(counts) == 4))


def annealed(atoms: Atoms, steps: dict[float, int], seed: int) -> Atoms:
    """Relax, then dynamics of 2 fs at each temperature (K) in turn."""
    from chgnet.model.dynamics import CHGNetCalculator

    atoms.calc = CHGNetCalculator(use_device="cpu")
    FIRE(atoms, logfile=None).run(fmax=0.3, steps=150)
    print(atoms.get_chemical_formula(), "relaxed, P with four S", four(atoms), flush=True)
    rng = np.random.default_rng(seed)
    for kelvin, count in steps.items():
        MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
        Langevin(atoms, 2 * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, rng=rng).run(count)
        print(kelvin, "K, P with four S", four(atoms), "temperature", atoms.get_temperature(), flush=True)
    return Atoms(atoms.numbers, atoms.get_positions(), cell=atoms.cell, pbc=True)


def main() -> None:
    """Write the snapshots at 600 K and 300 K."""
    glass = packed([p2s7(), ps4(), *[Atoms("Li")] * 7], length_A(1.9), np.random.default_rng(18))
    hot = annealed(glass, {600.0: 1500}, seed=1)
    cool = annealed(hot.copy(), {300.0: 500}, seed=2)
    for atoms, story in ((hot, "600 K 3 ps"), (cool, "600 K 3 ps > 300 K 1 ps")):
        atoms.info |= {"made_by": f"glass Li7P3S11 CHGNet {story}", "p_with_four_s": four(atoms)}
    write_frames(OUTPUT, [hot, cool])


def length_A(density: float) -> float:
    """Edge of a cube with Li7P3S11 once at a density, g/cm³."""
    mass_g = Atoms("Li7P3S11").get_masses().sum() / units.mol
    return float((mass_g / density * 1e24) ** (1 / 3))


if __name__ == "__main__":
    main()
