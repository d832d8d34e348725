"""Folders of VASP input, for users who submit by hand or by atomate2; finished ones are read back."""

from __future__ import annotations

import gzip
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from finetune.data.vasp import XML, converged, read_vasp
from finetune.errors import InputError
from finetune.files import write_frames
from finetune.labelling.core import Folders, Outcome

ELAPSED = re.compile(r"Elapsed time \(sec\):\s+([\d.]+)")  # at the end of OUTCAR
FRAME = "frame.extxyz"  # the structure with its atoms in their own order, beside the input files
DECIDES = ("ENCUT", "GGA", "METAGGA", "ISMEAR", "SIGMA", "ISPIN", "PREC", "LASPH")  # the answer, not how it is found
TETRAHEDRA = -5  # ISMEAR, without a width
GAUSSIAN = {"ISMEAR": 0, "SIGMA": 0.05}  # in place of tetrahedra, eV
EDIFF, EDIFF_PER_ATOM = 1e-5, 1e-6  # the electronic cycle ends at the larger of both at the latest, eV and eV/atom
SAME_A = 1e-3  # how far atoms of output and input may be apart, Å


PROBE = Atoms("Li", cell=[3, 3, 3], pbc=True)  # by which the settings of a set are known


@dataclass(frozen=True)
class VaspFolders(Folders):
    """Static calculations by an input set of pymatgen.

    POTCAR files are under VASP's licence: `POTCAR.spec` names the ones that are wanted, and pymatgen or
    `cat` makes a POTCAR of them.

    Two settings differ from the set's, unless `user_incar_settings` names them. Tetrahedra (`ISMEAR = -5`) become
    Gaussian smearing of 0.05 eV: with partial occupations the forces of tetrahedra are not derivatives of the energy,
    and no frame is known to be an insulator before it is computed. `EDIFF` is at most 1e-6 eV per atom, or 1e-5 eV in
    small cells.

    Attributes:
        inputs: the set: of the Materials Project (GGA or r2SCAN) or of MatPES (10.48550/arXiv.2503.04070).
        settings: further arguments of the set, such as `user_incar_settings` and `xc_functional`.
    """

    inputs: Literal["MPStaticSet", "MPScanStaticSet", "MP24StaticSet", "MatPESStaticSet"] = "MatPESStaticSet"
    settings: dict[str, Any] = field(default_factory=dict)

    def method(self) -> dict[str, Any]:
        """The input set and what was changed in it."""
        replaced = {"smearing": GAUSSIAN} if self._replaced() else {}
        return {"vasp": self.inputs, "settings": self.settings, **replaced}

    def check(self) -> None:
        """Report smearing that is not the set's or not variational.

        Raises:
            InputError: the settings are none of the set's.
        """
        incar = self._set(PROBE).incar
        if incar.get("ISMEAR") == TETRAHEDRA:
            print(
                "ISMEAR: got -5, expected smearing where frames may be metallic: forces of tetrahedra are not "
                "derivatives of the energy there. Give 0 unless every frame is an insulator."
            )
        elif self._replaced():
            print(f"ISMEAR = 0, SIGMA = {incar['SIGMA']:g} in place of -5 of {self.inputs}: frames may be metallic")

    def _replaced(self) -> bool:
        """Whether the set has tetrahedra that Gaussian smearing replaces."""
        tetrahedra = self._plain(PROBE, self.settings).incar.get("ISMEAR") == TETRAHEDRA
        return tetrahedra and "ISMEAR" not in self._own()

    def _own(self) -> dict[str, Any]:
        """The user's INCAR settings."""
        return dict(self.settings.get("user_incar_settings") or {})

    def write(self, atoms: Atoms, folder: Path) -> None:
        """INCAR, KPOINTS (where the set has one), POSCAR with its atoms sorted by element, and POTCAR.spec."""
        if not atoms.pbc.all() or atoms.cell.rank < 3:
            raise InputError(f"{atoms.symbols} is not periodic, which VASP wants; put it into a box with vacuum")
        folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen warns of every potential that is not at hand
            self._set(atoms[_order(atoms)]).write_input(str(folder), potcar_spec=True)
        write_frames(folder / FRAME, [atoms])

    def collect(self, atoms: Atoms, folder: Path) -> Outcome | None:
        """Read `vasprun.xml` (or `.gz`): free energy, forces and stress of the last step, in the frame's own order."""
        found = sorted(folder.glob("vasprun.xml*"))
        if not found:
            return None
        try:
            output, converged, code, used = _read(found[0])
        except (
            SyntaxError,
            ValueError,
            KeyError,
            IndexError,
            AttributeError,
            OSError,
            EOFError,
        ) as error:
            return Outcome(None, [f"{found[0]} cannot be read ({error}); is the calculation finished?"])
        if not converged:
            return Outcome(None, [f"{found[0]}: the electrons did not converge; raise NELM or change ALGO"])
        order = _order(atoms)
        if output.numbers.tolist() != atoms.numbers[order].tolist():
            return Outcome(None, [f"{found[0]} is of {output.symbols}, not of this frame"])
        apart = find_mic(output.positions - atoms.positions[order], atoms.cell, atoms.pbc)[1].max()
        if apart > SAME_A or not np.allclose(output.cell, atoms.cell, atol=SAME_A):
            return Outcome(None, [f"{found[0]}: atoms or cell moved ({apart:.3g} Å); a static calculation is wanted"])
        other = _others(self._set(atoms[order]).incar, used)
        if other:
            remedy = "run it with the INCAR of this folder, or say so in `user_incar_settings` of a config of its own"
            return Outcome(None, [f"{found[0]} was computed with {other}; {remedy}"])
        labelled, seconds = self._labelled(atoms, output, order, code), _elapsed(folder)
        labelled.info["wall_s"] = seconds
        return Outcome(labelled, wall_s=seconds)

    def _labelled(self, atoms: Atoms, output: Atoms, order: np.ndarray, code: str) -> Atoms:
        labelled = atoms.copy()
        forces = np.empty((len(atoms), 3))
        forces[order] = output.calc.results["forces"]
        labelled.arrays["REF_forces"] = forces
        labelled.info["REF_energy"] = float(output.calc.results["free_energy"])
        if "stress" in output.calc.results:
            labelled.info["REF_stress"] = np.asarray(output.calc.results["stress"], dtype=float)
        labelled.info |= {"label_code": code, "label_method": self.method_hash()}
        return labelled

    def _set(self, atoms: Atoms) -> Any:
        """The input set of a structure, with variational smearing and a cycle that ends late enough for its size."""
        own = self._own()
        incar = self._plain(atoms, self.settings).incar
        changed: dict[str, Any] = {}
        if incar.get("ISMEAR") == TETRAHEDRA and "ISMEAR" not in own:
            changed = GAUSSIAN | {key: own[key] for key in own if key == "SIGMA"}
        least = max(EDIFF, EDIFF_PER_ATOM * len(atoms))
        if incar.get("EDIFF", 0.0) > least and not {"EDIFF", "EDIFF_PER_ATOM"} & set(own):
            changed["EDIFF"] = least
        return self._plain(atoms, {**self.settings, "user_incar_settings": own | changed})

    def _plain(self, atoms: Atoms, settings: Mapping[str, Any]) -> Any:
        """The input set of a structure by pymatgen.

        Raises:
            InputError: an argument that the set does not have.
        """
        from pymatgen.io.ase import AseAtomsAdaptor
        from pymatgen.io.vasp import sets

        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        structure = AseAtomsAdaptor.get_structure(bare)
        try:
            return getattr(sets, self.inputs)(structure, sort_structure=False, **_known(settings))
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.inputs} does not take these settings: {error}") from error


def _elapsed(folder: Path) -> float:
    """Seconds that a calculation took, by its OUTCAR; 0 where there is none."""
    for path in sorted(folder.glob("OUTCAR*")):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if found := ELAPSED.findall(text.decode(errors="replace")):
            return float(found[-1])
    return 0.0


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    if "sort_structure" in settings:
        raise InputError("sort_structure cannot be set: the order of the atoms is kept in frame.extxyz")
    return dict(settings)


def _order(atoms: Atoms) -> np.ndarray:
    """Indices that sort the atoms by element and keep their order otherwise."""
    return np.argsort(atoms.numbers, kind="stable")


def _others(wanted: Mapping[str, Any], used: Mapping[str, Any]) -> str:
    """Settings that decide the answer and are not those of the set, in words; empty where there are none."""
    words = []
    for key in (key for key in DECIDES if key in wanted):
        own, other = wanted[key], used.get(key, used.get({"ENCUT": "ENMAX"}.get(key, key)))
        if other in (None, "--") or (key == "SIGMA" and wanted.get("ISMEAR") == TETRAHEDRA):
            continue
        if isinstance(own, int | float) and isinstance(other, int | float):
            same = abs(own - other) < 1e-6
        else:
            same = str(own).lower() == str(other).lower()
        words += [] if same else [f"{key} = {other}, not {own}"]
    return ", ".join(words)


def _read(path: Path) -> tuple[Atoms, bool, str, dict[str, Any]]:
    """Last structure with results, whether its electrons converged, the code's version, and the settings used."""
    from pymatgen.io.vasp.outputs import Vasprun

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = Vasprun(str(path), parse_dos=False, parse_eigen=False, parse_potcar_file=False)
    output = list(read_vasp(path, XML, labelled=False))[-1][1]
    return output, converged(path, XML), f"vasp {run.vasp_version}", {**run.parameters, **run.incar}
