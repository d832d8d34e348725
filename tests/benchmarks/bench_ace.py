"""Our atomic cluster expansion beside ace_jax: `python tests/benchmarks/bench_ace.py`; see README.md beside it."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

ROOT = Path(__file__).parents[2]
CRYSTAL = ROOT / "data/structures/materials_project"
SPEED, FIT, FLAT = 1.0, 2.0, 1.2  # promised: calls, fits, cost per atom of the largest over that of the smallest cell
ELEMENTS = ["Li", "P", "S"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Race, print ratios; 1 if `--check` and a promise is not kept."""
    options = _parser().parse_args(arguments)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # both sides get the same core, and only that one
    races = {"calls": calls, "sizes": sizes, "fits": fits}
    kept = [race(options) for name, race in races.items() if name in (options.only or races)]
    return 0 if all(kept) or not options.check else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Atomic cluster expansion: calls, sizes and fits beside ace_jax.")
    parser.add_argument("--only", choices=["calls", "sizes", "fits"], action="append", help="this race only")
    parser.add_argument("--repeats", type=int, default=30, help="calls of each calculator")
    parser.add_argument("--atoms", type=int, nargs="+", default=[200, 2000, 20000], help="sizes of cells, about")
    parser.add_argument("--fits", type=int, default=1, help="fits of each side")
    parser.add_argument("--frames", type=Path, default=ROOT / "data/starting/train.extxyz", help="frames to fit to")
    parser.add_argument("--degree", type=int, default=6, help="--max-degree of the peer's basis (6: 1047 coefficients)")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a promise is not kept")
    return parser


def potential() -> Any:
    """The basis of configs/ace.yaml with random coefficients and core repulsion."""
    import torch

    from finetune import models

    torch.manual_seed(0)
    made = models.backbone("ace")(ELEMENTS, core={}).eval()
    with torch.no_grad():
        made.coefficients.normal_(std=1e-3)
    return made


def crystal(atoms: int) -> Atoms:
    """Rattled Li7P3S11 of about so many atoms."""
    (file,) = CRYSTAL.glob("Li7P3S11_*.cif")
    unit = ase.io.read(file)
    times = max(1, round(atoms / len(unit)))
    repeats = min(
        ((a, b, c) for a in range(1, 12) for b in range(1, 12) for c in range(1, 12)),
        key=lambda r: (abs(np.prod(r) - times), np.ptp(r * unit.cell.lengths())),
    )
    cell = unit.repeat(repeats)
    cell.rattle(0.05, seed=0)
    return cell


def calls(options: argparse.Namespace) -> bool:
    """Time of energy and forces of 126 atoms, the same potential on both sides, in turn."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import ace_jax

    import finetune

    atoms = crystal(128)
    made = potential()
    with tempfile.TemporaryDirectory() as folder:
        made.export("yace", Path(folder) / "ace.yace")
        sides = {"ours": finetune.calculator(made), "ace_jax": ace_jax.ACECalculator(str(Path(folder) / "ace.yace"))}
        forces = {name: _forces(calculator, atoms) for name, calculator in sides.items()}
        worst = np.abs(forces["ours"] - forces["ace_jax"]).max()
        if worst > 1e-6:
            raise SystemExit(f"the sides disagree by {worst:.1e} eV/Å: they do not do the same work")
        rng = np.random.default_rng(0)
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.repeats):
            atoms.positions += rng.normal(0, 0.003, atoms.positions.shape)
            for name, calculator in sides.items():
                times[name].append(_clock(lambda c=calculator: _forces(c, atoms)))
    ratios = np.array(times["ace_jax"]) / np.array(times["ours"])
    low, high = np.quantile(ratios, [0.1, 0.9])
    per_atom = {name: np.median(values) / len(atoms) * 1e3 for name, values in times.items()}
    print(
        f"energy and forces of {len(atoms)} atoms, {len(made.products.functions)} functions per element: "
        f"{np.median(ratios):.2f}x ace_jax ({low:.2f} to {high:.2f}); "
        f"ms per atom: ours {per_atom['ours']:.3f}, ace_jax {per_atom['ace_jax']:.3f}"
    )
    return bool(np.median(ratios) >= SPEED)


def _forces(calculator: Any, atoms: Atoms) -> np.ndarray:
    there = atoms.copy()
    there.calc = calculator
    there.get_potential_energy()
    return np.asarray(there.get_forces())


def _clock(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sizes(options: argparse.Namespace) -> bool:
    """Time per atom of cells of several sizes, in turn; neighbour lists included."""
    import finetune

    calculator = finetune.calculator(potential())
    cells = [crystal(count) for count in options.atoms]
    rng = np.random.default_rng(0)
    best = np.full(len(cells), np.inf)
    for _ in range(3):
        for k, cell in enumerate(cells):
            for _ in range(2 + 4000 // len(cell)):
                cell.rattle(1e-4, rng=rng)  # or the calculator gives its last results again
                best[k] = min(best[k], _clock(lambda c=cell: _forces(calculator, c)) / len(cell) * 1e3)
    for cell, value in zip(cells, best, strict=True):
        print(f"{len(cell):6d} atoms: {value:.3f} ms per atom, {value / best[0]:.2f} of the smallest cell's")
    return bool(best.max() / best[0] <= FLAT)


def fits(options: argparse.Namespace) -> bool:
    """Time of a whole fit from the command line: read, fit, predict, write."""
    ratios = []
    for _ in range(options.fits):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            frames = ase.io.read(options.frames, ":")
            ase.io.write(folder / "train.extxyz", [plain(atoms) for atoms in frames])
            valid = ROOT / "data/starting/valid.extxyz"
            ase.io.write(folder / "valid.extxyz", [plain(atoms) for atoms in ase.io.read(valid, ":")])
            ours = _clock(lambda f=folder: _ours(f))
            peer = _clock(lambda f=folder: _peer(f, options.degree))
            sizes_of = {"ours": count_of_ours(folder), "ace_jax": count_of_peer(folder, options.degree)}
        ratios.append(peer / ours)
        print(
            f"fit of {len(frames)} frames: ours {ours:.0f} s with {sizes_of['ours']} coefficients, "
            f"ace_jax {peer:.0f} s with {sizes_of['ace_jax']}: {peer / ours:.2f}x",
            flush=True,
        )
    return bool(np.median(ratios) >= FIT)


def plain(atoms: Atoms) -> Atoms:
    """A frame whose labels are where both sides find them: energy and forces, stress as 3x3."""
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    stress = np.asarray(atoms.info["REF_stress"], dtype=float)
    if stress.shape == (6,):
        xx, yy, zz, yz, xz, xy = stress
        stress = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    copy.info = {"REF_energy": float(atoms.info["REF_energy"]), "REF_stress": stress}
    copy.info |= {key: atoms.info[key] for key in ("family", "group") if key in atoms.info}
    copy.arrays["REF_forces"] = atoms.arrays["REF_forces"]
    return copy


def _ours(folder: Path) -> None:
    data = ["--data.train", folder / "train.extxyz", "--data.valid", folder / "valid.extxyz", "--data.test", "null"]
    configs = ["-c", ROOT / "configs/base.yaml", "-c", ROOT / "configs/ace.yaml"]
    _run("finetune", "fit", *configs, *data, "--trainer.default_root_dir", folder / "ours")


def _peer(folder: Path, degree: int) -> None:
    keys = ["--energy-key", "REF_energy", "--force-key", "REF_forces", "--stress-key", "REF_stress"]
    data = ["--train", folder / "train.extxyz", "--test", folder / "valid.extxyz", "--e0", "lsq"]
    _run("aj", "fit", *_basis(degree), *data, *keys, "--out", folder / "peer")


def _basis(degree: int) -> list[Any]:
    return ["--elements", ",".join(ELEMENTS), "--order", 3, "--max-degree", degree, "--rcut", 6.0]


def _run(command: str, *arguments: Any) -> str:
    """What a command said."""
    script = shutil.which(command, path=str(Path(sys.executable).parent))
    done = subprocess.run(
        [script or command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command} failed with exit status {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def count_of_ours(folder: Path) -> int:
    """Coefficients of our fit."""
    from finetune import models

    return int(models.load(folder / "ours").potential.coefficients.numel())  # type: ignore[attr-defined]


def count_of_peer(folder: Path, degree: int) -> int:
    """Coefficients of the other fit, as `aj basis` counts them."""
    said = _run("aj", "basis", *_basis(degree), "--out", folder / "basis.npz")
    (count,) = re.findall(r"(\d+) basis entries", said)
    return int(count)


if __name__ == "__main__":
    sys.exit(main())
