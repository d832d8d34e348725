"""Distance of DFT settings from a converged calculation: forces, energy and stress, by k-points, cutoff and smearing.

Run from the top of the repository, with GPAW (extra `gpaw`); some hours on one core. A second run continues where the
first one stopped:

    python notebooks/dft_convergence.py            # compute what is missing, then print the tables
    python notebooks/dft_convergence.py --table    # only print

Results are in data/convergence.json: one record per frame and setting, with energy (free energy, eV), forces (eV/Å),
stress (eV/Å³), wall time and processor time (s). A wall time of a busy machine says little; `cpu_s` is missing in the
records of the first version. Frames are those of data/starting, and of data/convergence-frames.extxyz
(`notebooks/dft_convergence_frames.py`).
"""

# %%
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
from ase import Atoms

from finetune.files import write_text
from finetune.labelling import Grid
from finetune.labelling.calculated import build, with_labels
from finetune.labelling.store import identity

RESULTS = Path("data/convergence.json")
FRAMES = [*sorted(Path("data/starting").glob("*.extxyz")), Path("data/convergence-frames.extxyz")]
FAMILIES = {  # `made_by` of the frame, and its number among those
    "Li metal, 16 atoms": ("crystal Li", 1),
    "Li2P melt, 18 atoms": ("amorphous Li2P_1500K_160fs", 0),
    "Li3P crystal 900 K, 16 atoms": ("crystal_md Li3P_900K_240fs", 0),
    "Li7P3S11 packed 1500 K, 21 atoms": ("amorphous Li7P3S11+0Li_1500K_160fs", 0),
    "Li7P3S11 packed, 21 atoms": ("amorphous Li7P3S11+0Li_600K_240fs", 0),
    "Li13P3S11 packed, 27 atoms": ("amorphous Li7P3S11+6Li_1500K_320fs", 0),
    "Li7P3S11 units 600 K, 21 atoms": ("glass Li7P3S11 CHGNet 600 K 3 ps", 0),
    "Li7P3S11 units 300 K, 21 atoms": ("glass Li7P3S11 CHGNet 600 K 3 ps > 300 K 1 ps", 0),
    "Li3PS4 crystal 900 K, 16 atoms": ("crystal_md Li3PS4_900K_240fs", 0),
    "Li | Li3P, 12 atoms": ("interface Li|Li3P_1000K_160fs", 0),
    "Li | Li2S, 20 atoms": ("interface Li|Li2S_1000K_320fs", 0),
}
CLOSE = {"energy": 5e-5, "density": 1e-4}  # the convergence of the electrons in configs/label
CLOSER = {"energy": 1e-6, "density": 1e-7}
FIELDS = {"ecut": "cutoff", "grid": "k-points", "smearing": "smearing", "electrons": "electrons"}
FALLBACKS = [  # as in configs/label
    {"eigensolver": "dav"},
    {"eigensolver": "dav", "mixer": {"backend": "pulay", "beta": 0.02, "nmaxold": 8, "weight": 100.0}, "maxiter": 1000},
]


class Setting(NamedTuple):
    """Cutoff (eV), smearing (its kind, FD or MV, and width in eV), least length of the grid (Å), its shift.

    `converged` tells whether the electrons are converged much further than for a label.
    """

    ecut: float = 400
    smearing: str = "FD"
    width: float = 0.1
    length_A: float = 15
    shift: float = 0.25
    converged: bool = False


# %%
def jobs() -> Iterator[tuple[str, Setting]]:
    """Frames and settings, the most informative first; those of one grid together, wide smearing before narrow."""
    both, narrow, series = (0.05, 0.025), (0.025,), (0.1, 0.05, 0.025)
    packed, units = "Li7P3S11 packed 1500 K, 21 atoms", "Li7P3S11 units 600 K, 21 atoms"
    contact, sulfide, metal, melt = (
        "Li | Li3P, 12 atoms",
        "Li | Li2S, 20 atoms",
        "Li metal, 16 atoms",
        "Li2P melt, 18 atoms",
    )
    crystal, phosphide = "Li3PS4 crystal 900 K, 16 atoms", "Li3P crystal 900 K, 16 atoms"
    cold = (0.1, 0.2)
    for name, length, widths, cold_widths in (
        (packed, 15, series, ()),  # 2x2x2
        (units, 15, series, ()),
        (contact, 12.5, series, cold),  # 4x4x1
        (units, 7, both, ()),  # 1x1x1
        (metal, 15, series, cold),  # 3x3x3
        (packed, 15, (), cold),
        (melt, 14, series, cold),  # 3x3x3
        (contact, 25, both, (0.1,)),  # 7x7x2
        (contact, 21, (), (0.1,)),  # 6x6x2
        (metal, 21, series, cold),  # 4x4x4
        (units, 14, (), (0.1,)),  # 2x2x2
        (units, 21, (0.025,), (0.1,)),  # 3x3x3
        (melt, 21, (0.025,), (0.1,)),  # 4x4x4
        (crystal, 14, series, (0.1,)),
        (sulfide, 14, both, (0.1,)),  # 5x3x1
        (packed, 21, (0.05, 0.025), (0.1,)),  # 3x3x3
        (sulfide, 21, both, (0.1,)),  # 7x4x2
        (crystal, 21, (0.025,), (0.1,)),
        (contact, 15, both, ()),  # 5x5x1
        (metal, 10, series, (0.1,)),  # 2x2x2
        (metal, 30, narrow, (0.1,)),  # 5x5x5
        (melt, 10, both, (0.1,)),  # 2x2x2
        (phosphide, 14, series, (0.1,)),
        (phosphide, 21, both, (0.1,)),
        ("Li7P3S11 units 300 K, 21 atoms", 14, series, (0.1,)),
        ("Li7P3S11 packed, 21 atoms", 14, series, (0.1,)),
        ("Li13P3S11 packed, 27 atoms", 14, both, (0.1,)),
        ("Li13P3S11 packed, 27 atoms", 21, both, (0.1,)),
        (contact, 30, narrow, ()),  # 9x9x2
        (melt, 30, narrow, (0.1,)),  # 5x5x5
        (packed, 25, narrow, (0.1,)),  # 4x4x4
    ):
        yield from ((name, Setting(width=width, length_A=length)) for width in widths)
        yield from ((name, Setting(smearing="MV", width=width, length_A=length)) for width in cold_widths)
    yield packed, Setting(width=0.05, converged=True)
    yield metal, Setting(width=0.05, converged=True)
    yield from ((crystal, Setting(width=width, length_A=7)) for width in both)
    yield from ((units, Setting(ecut=ecut, length_A=7)) for ecut in (400, 600, 500, 350))


def frames() -> dict[str, Atoms]:
    """The frame of each family whose file is there."""
    everything = [atoms for path in FRAMES if path.exists() for atoms in ase.io.read(path, ":")]
    found = {}
    for name, (made_by, index) in FAMILIES.items():
        alike = sorted((a for a in everything if a.info["made_by"] == made_by), key=identity)
        if len(alike) > index:
            found[name] = alike[index]
    return found


def occupations(setting: Setting) -> dict[str, Any]:
    """GPAW's words for the smearing."""
    return {"name": {"FD": "fermi-dirac", "MV": "marzari-vanderbilt"}[setting.smearing], "width": setting.width}


def calculators(setting: Setting, atoms: Atoms) -> Iterator[Any]:
    """GPAW as in configs/label/gpaw.yaml with other settings, then with each of the fallbacks."""
    settings = {"mode": {"name": "pw", "ecut": setting.ecut}, "xc": "PBE", "txt": None}
    settings |= {"kpts": Grid(float(setting.length_A), setting.shift).points(atoms).tolist()}
    settings |= {"occupations": occupations(setting), "convergence": CLOSER if setting.converged else CLOSE}
    for changes in ({}, *FALLBACKS):
        yield build("gpaw.GPAW", {**settings, "eigensolver": "rmm-diis", **changes})


def key(name: str, atoms: Atoms, setting: Setting) -> str:
    """A calculation in words; grids of the same size are the same."""
    size = "x".join(map(str, Grid(float(setting.length_A), setting.shift).size(atoms)))
    electrons = "; electrons converged further" if setting.converged else ""
    smearing = f"{setting.smearing} {setting.width:g} eV"
    return f"{name}; {setting.ecut:g} eV; {smearing}; {size} + {setting.shift:g}{electrons}"


def compute(given: dict[str, Atoms], results: dict[str, dict[str, Any]]) -> None:
    """Compute what is missing, one after the other, and write every result as it comes.

    A frame that differs from the one before in nothing but the smearing continues from its wave functions; its record
    has `continued` and a time that is not the cost of such a label.
    """
    calculator, before = None, None
    for name, setting in jobs():
        if name not in given or (label := key(name, given[name], setting)) in results:
            continue
        begin, begin_cpu = time.perf_counter(), time.process_time()
        alike = (name, setting._replace(smearing="", width=0))
        continued = calculator is not None and alike == before
        labelled, before = None, alike
        if continued:
            labelled = attempt(calculator, given[name], occupations(setting))
        if labelled is None:
            continued = False
            for calculator in calculators(setting, given[name]):
                if (labelled := attempt(calculator, given[name])) is not None:
                    break
        if labelled is None:
            calculator = None
            continue
        result = {"energy": labelled.info["REF_energy"], "stress": labelled.info["REF_stress"].tolist()}
        result |= {"forces": labelled.arrays["REF_forces"].tolist(), "wall_s": round(time.perf_counter() - begin, 1)}
        results[label] = {**result, "cpu_s": round(time.process_time() - begin_cpu, 1), "continued": continued}
        write_text(RESULTS, json.dumps(results, indent=0))
        how = "continued" if continued else "from the beginning"
        print(f"{label}: {results[label]['cpu_s']} s processor, {result['wall_s']} s wall, {how}", flush=True)


def attempt(calculator: Any, atoms: Atoms, smearing: dict[str, Any] | None = None) -> Atoms | None:
    """The frame with labels; None where the electrons do not converge. With `smearing`, the calculator continues."""
    from gpaw import KohnShamConvergenceError

    work = atoms.copy()
    work.calc = calculator
    try:
        if smearing is not None:
            calculator.dft.change(occupations=smearing)
            calculator.dft.results.clear()
            calculator.dft.converge()
        return with_labels(work, calculator)
    except (KohnShamConvergenceError, np.linalg.LinAlgError) as error:
        print("not converged:", error, flush=True)
        return None


# %%
class Result(NamedTuple):
    """A record and the four things that its key says."""

    ecut: str
    smearing: str
    grid: str
    electrons: str
    record: dict[str, Any]

    @property
    def points(self) -> int:
        """Number of k-points."""
        return int(np.prod([int(n) for n in self.grid.split(" + ")[0].split("x")]))

    @property
    def width(self) -> float:
        """Width of the smearing, eV; cold smearing comes after all Fermi-Dirac ones."""
        kind, width, _ = self.smearing.split()
        return float(width) + (1.0 if kind == "MV" else 0.0)


def of_family(name: str, results: dict[str, dict[str, Any]]) -> list[Result]:
    """Results of a family."""
    found = []
    for label, record in results.items():
        family, ecut, smearing, grid, *electrons = label.split("; ")
        if family == name:
            found.append(Result(ecut, smearing, grid, "".join(electrons), record))
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float, float]:
    """Forces (meV/Å rms of components), energy (meV/atom) and stress (meV/Å³ rms of components) between two records."""
    forces, stress = (1e3 * float(np.sqrt(np.mean((np.array(one[k]) - other[k]) ** 2))) for k in ("forces", "stress"))
    return forces, 1e3 * (one["energy"] - other["energy"]) / len(one["forces"]), stress


def comparisons(found: list[Result]) -> Iterator[tuple[str, Result, Result]]:
    """What is varied, a result, and the best one that differs from it in nothing else."""
    for one in found:
        same = {
            "cutoff": [
                r for r in found if (r.smearing, r.grid, r.electrons) == (one.smearing, one.grid, one.electrons)
            ],
            "k-points": [
                r
                for r in found
                if (r.ecut, r.smearing, r.electrons) == (one.ecut, one.smearing, one.electrons)
                and r.grid.endswith("+ 0.25")
            ],
            "smearing": [r for r in found if (r.ecut, r.grid, r.electrons) == (one.ecut, one.grid, one.electrons)],
            "electrons": [r for r in found if (r.ecut, r.smearing, r.grid) == (one.ecut, one.smearing, one.grid)],
        }
        best = {
            "cutoff": max(same["cutoff"], key=lambda r: float(r.ecut.split()[0])),
            "k-points": max(same["k-points"], key=lambda r: r.points, default=one),
            "smearing": min(same["smearing"], key=lambda r: r.width),
            "electrons": max(same["electrons"], key=lambda r: r.electrons),
        }
        if not best["smearing"].smearing.startswith("FD 0.025 "):
            del best["smearing"]
        yield from ((what, one, other) for what, other in best.items() if other is not one)


def reference(found: list[Result]) -> Result | None:
    """The result that levels are compared with: 400 eV, Fermi-Dirac 0.025 eV, the densest grid."""
    narrow = [r for r in found if (r.ecut, r.smearing, r.electrons) == ("400 eV", "FD 0.025 eV", "")]
    return max(narrow, key=lambda r: r.points, default=None)


def tables(results: dict[str, dict[str, Any]]) -> None:
    """Print each effect by itself, then settings together with their grid against a reference of more k-points."""
    head = "forces, meV/Å rms | energy, meV/atom | stress, meV/Å³ rms | processor (wall), s |\n" + 8 * "|---" + "|"
    rows: dict[str, list[str]] = {}
    for name in FAMILIES:
        found = of_family(name, results)
        for what, one, other in comparisons(found):
            field = {value: key for key, value in FIELDS.items()}[what]
            unlike = f"{getattr(one, field) or 'as a label'} | {getattr(other, field)}"
            others = [value for key, value in one._asdict().items() if key not in (field, "record", "electrons")]
            rows.setdefault(what, []).append(
                f"| {name.replace('|', '/')} | {', '.join(others)} | {unlike} | {_figures(one, other)} |"
            )
    for what, lines in rows.items():
        print(f"\n**{what}**\n\n| frame | same | {what} | against | {head}", *sorted(lines), sep="\n")
    print(f"\n**Levels, at 400 eV**\n\n| frame | reference | smearing | grid | {head}")
    for name in FAMILIES:
        found = of_family(name, results)
        if (best := reference(found)) is None:
            continue
        for one in sorted(found, key=lambda r: (r.smearing, r.points)):
            if one.ecut == best.ecut and not one.electrons and one.points < best.points:
                settings = f"{name.replace('|', '/')} | {best.smearing}, {best.grid} | {one.smearing} | {one.grid}"
                print(f"| {settings} | {_figures(one, best)} |")


def _figures(one: Result, other: Result) -> str:
    forces, energy, stress = differences(one.record, other.record)
    seconds = "" if one.record.get("continued") else f"{one.record.get('cpu_s', '')} ({one.record['wall_s']})"
    return f"{forces:.1f} | {energy:.1f} | {stress:.2f} | {seconds}"


def main() -> None:
    """Compute what is missing, then print the tables."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if "--table" not in sys.argv:
        compute(frames(), results)
    tables(results)


if __name__ == "__main__":
    main()
