"""Folders of VASP input: written from pymatgen's sets, and read back in the order of the frame."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path

import ase.io
import ase.test
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from finetune.errors import InputError
from finetune.labelling import VaspFolders
from finetune.labelling.store import identity

from .commands import command
from .test_data_reading import VASP

OUTPUT = VASP / "vasprun_pstress.xml"
AS_RUN = {"ENCUT": 400, "ISMEAR": 1, "SIGMA": 0.2, "ISPIN": 1, "PREC": "Normal", "LASPH": False}
SETTINGS = {"user_incar_settings": AS_RUN}


def shuffled(seed: int = 0) -> tuple[Atoms, np.ndarray]:
    """The structure of a VASP run with its atoms in another order, and that order."""
    atoms = ase.io.read(OUTPUT, index=-1)
    order = np.random.default_rng(seed).permutation(len(atoms))
    structure = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)[order]
    structure.info.update(family="crystal", group="g")
    return structure, order


def config(folder: Path, **settings: object) -> Path:
    labeller = {"class_path": "finetune.labelling.VaspFolders", "init_args": settings}
    (folder / "label.json").write_text(json.dumps({"labeller": labeller}))
    return folder / "label.json"


@pytest.mark.parametrize("inputs", ["MPStaticSet", "MatPESStaticSet"])
def test_input_holds_the_structure_sorted_by_element(tmp_path, inputs):
    atoms = Atoms("LiSLiP", [[0, 0, 0], [2, 2, 2], [0, 2, 0], [2, 0, 2]], cell=[5, 5, 5], pbc=True)
    VaspFolders(inputs).write(atoms, tmp_path)
    poscar = ase.io.read(tmp_path / "POSCAR")
    assert poscar.get_chemical_symbols() == ["Li", "Li", "P", "S"]
    np.testing.assert_allclose(poscar.positions, atoms.positions[[0, 2, 3, 1]], atol=1e-6)
    incar = (tmp_path / "INCAR").read_text()
    assert "NSW = 0" in incar or "IBRION = -1" in incar
    assert len((tmp_path / "POTCAR.spec").read_text().split()) == 3
    assert ase.io.read(tmp_path / "frame.extxyz").get_chemical_symbols() == ["Li", "S", "Li", "P"]


def test_changed_settings_arrive_in_the_input_and_change_the_method(tmp_path):
    atoms = Atoms("Li", cell=[3, 3, 3], pbc=True)
    changed = VaspFolders("MPStaticSet", {"user_incar_settings": {"ENCUT": 680}})
    changed.write(atoms, tmp_path)
    assert "ENCUT = 680" in (tmp_path / "INCAR").read_text()
    assert changed.method_hash() != VaspFolders("MPStaticSet").method_hash()


def written(labeller: VaspFolders, atoms: Atoms, folder: Path) -> dict[str, float]:
    """ISMEAR, SIGMA and EDIFF of the INCAR that is written."""
    labeller.write(atoms, folder)
    lines = dict(line.split(" = ") for line in (folder / "INCAR").read_text().splitlines() if " = " in line)
    return {key: float(lines[key]) for key in ("ISMEAR", "SIGMA", "EDIFF")}


@pytest.mark.parametrize("inputs", ["MPStaticSet", "MPScanStaticSet", "MP24StaticSet", "MatPESStaticSet"])
@pytest.mark.parametrize("crystal", [bulk("Li"), bulk("NaCl", "rocksalt", a=5.64), bulk("Al").repeat((3, 3, 4))])
def test_forces_are_derivatives_of_the_energy_in_metals_too(tmp_path, inputs, crystal, capsys):
    """No set writes tetrahedra; the cycle ends at 1e-6 eV per atom, or 1e-5 eV in cells of less than ten atoms."""
    labeller = VaspFolders(inputs)
    incar = written(labeller, crystal, tmp_path)
    assert (incar["ISMEAR"], incar["SIGMA"]) == (0, 0.05)
    assert incar["EDIFF"] <= max(1e-5, 1e-6 * len(crystal)) * (1 + 1e-9)
    labeller.check()
    assert ("in place of -5" in capsys.readouterr().out) == (inputs != "MatPESStaticSet")


def test_tetrahedra_and_ediff_are_kept_where_the_user_asks_for_them_and_warned_of(tmp_path, capsys):
    own = {"ISMEAR": -5, "EDIFF": 1e-3}
    labeller = VaspFolders("MPStaticSet", {"user_incar_settings": own})
    incar = written(labeller, bulk("Li"), tmp_path)
    assert (incar["ISMEAR"], incar["EDIFF"]) == (-5, 1e-3)
    labeller.check()
    assert "not derivatives of the energy" in capsys.readouterr().out
    assert labeller.method_hash() != VaspFolders("MPStaticSet", {"user_incar_settings": {"EDIFF": 1e-3}}).method_hash()


def test_results_come_back_in_the_order_of_the_frame(tmp_path):
    # carbon nitride, as VASP prints it: sorted by element, C first; the frame has N first
    text = OUTPUT.read_text().replace("<rc><c>C </c><c>   1</c></rc>", "<rc><c>N </c><c>   2</c></rc>")
    text = text.replace("<rc><c>N </c><c>   2</c></rc>", "<rc><c>C </c><c>   1</c></rc>", 1)
    text = re.sub(r'(<varray name="forces" >\s*<v>)[^<]*', r"\1 0.5 0.25 0.125 ", text)
    printed = tmp_path / "printed.xml"
    printed.write_text(text)
    expected = ase.io.read(printed, index=-1, format="vasp-xml")
    assert expected.get_chemical_symbols() == ["C", "N"]
    frame = Atoms(expected.numbers, expected.positions, cell=expected.cell, pbc=True)[[1, 0]]
    labeller = VaspFolders("MPStaticSet", SETTINGS)
    labeller.write(frame, tmp_path)
    assert labeller.collect(frame, tmp_path) is None  # not run yet
    printed.rename(tmp_path / "vasprun.xml")
    outcome = labeller.collect(frame, tmp_path)
    assert outcome.atoms is not None, outcome.reasons
    assert outcome.atoms.get_chemical_symbols() == ["N", "C"]
    np.testing.assert_allclose(outcome.atoms.arrays["REF_forces"], expected.get_forces()[[1, 0]])
    np.testing.assert_allclose(outcome.atoms.arrays["REF_forces"][1], [0.5, 0.25, 0.125])
    assert outcome.atoms.info["REF_energy"] == expected.get_potential_energy(force_consistent=True)
    np.testing.assert_allclose(outcome.atoms.info["REF_stress"], expected.get_stress())
    assert outcome.atoms.info["label_code"].startswith("vasp ")


def test_folders_of_another_method_are_not_mixed(tmp_path, capsys):
    ase.io.write(tmp_path / "frames.extxyz", shuffled()[0], format="extxyz")
    arguments = ["label", tmp_path / "frames.extxyz", "--output", tmp_path / "out.extxyz", "-c"]
    assert command(*arguments, config(tmp_path, inputs="MPStaticSet")) == 0
    changed = config(tmp_path, inputs="MPStaticSet", settings={"user_incar_settings": {"ENCUT": 300}})
    for more in ((), ("--collect",)):
        assert command(*arguments, changed, *more) == 1
        assert "of another method" in capsys.readouterr().err


def test_output_of_another_structure_is_refused(tmp_path):
    atoms, order = shuffled()
    moved = atoms[np.argsort(order)]
    moved.positions[0] += [0.1, 0, 0]
    shutil.copy(OUTPUT, tmp_path / "vasprun.xml")
    outcome = VaspFolders("MPStaticSet").collect(moved, tmp_path)
    assert outcome.atoms is None
    assert "moved" in outcome.reasons[0]
    other = VaspFolders("MPStaticSet").collect(Atoms("Xe", cell=[4, 4, 4], pbc=True), tmp_path)
    assert "not of this frame" in other.reasons[0]


def test_output_of_other_settings_is_refused(tmp_path):
    atoms, order = shuffled()
    frame = atoms[np.argsort(order)]
    shutil.copy(OUTPUT, tmp_path / "vasprun.xml")
    assert VaspFolders("MPStaticSet", SETTINGS).collect(frame, tmp_path).atoms is not None
    for key, value in {"ENCUT": 520, "ISMEAR": 0, "SIGMA": 0.05, "ISPIN": 2, "PREC": "Accurate", "LASPH": True}.items():
        changed = VaspFolders("MPStaticSet", {"user_incar_settings": {**AS_RUN, key: value}}).collect(frame, tmp_path)
        assert changed.atoms is None
        assert f"{key} = {AS_RUN[key]}" in changed.reasons[0].replace("400.0", "400")
        assert f"not {value}" in changed.reasons[0].replace("520.0", "520")


def test_a_torn_output_is_told_and_kept_out(tmp_path):
    atoms, order = shuffled()
    (tmp_path / "vasprun.xml").write_bytes(OUTPUT.read_bytes()[:3000])
    outcome = VaspFolders("MPStaticSet").collect(atoms[np.argsort(order)], tmp_path)
    assert outcome.atoms is None
    assert "cannot be read" in outcome.reasons[0]


def test_the_command_writes_folders_and_collects_what_is_finished(tmp_path, capsys):
    atoms, order = shuffled()
    frame = atoms[np.argsort(order)]
    other = frame.copy()
    other.rattle(0.01)
    ase.io.write(tmp_path / "frames.extxyz", [frame, other], format="extxyz")
    out = tmp_path / "out.extxyz"
    given = config(tmp_path, inputs="MPStaticSet", settings=SETTINGS)
    arguments = ["label", tmp_path / "frames.extxyz", "-c", given, "--output", out]
    assert command(*arguments) == 0
    assert "2 folders of input written" in capsys.readouterr().out
    [name, _] = [identity(each) for each in ase.io.read(tmp_path / "frames.extxyz", ":")]
    shutil.copy(OUTPUT, tmp_path / f"out.extxyz.inputs/{name}/vasprun.xml")
    assert command(*arguments, "--collect") == 0
    assert "1 labelled frames" in (said := capsys.readouterr().out)
    assert "1 are still to be computed" in said
    [labelled] = ase.io.read(out, ":")
    assert labelled.info["family"] == "crystal"
    assert "REF_forces" in labelled.arrays


def test_a_setting_that_the_set_does_not_have_is_told():
    with pytest.raises(InputError, match="no_such"):
        VaspFolders("MPStaticSet", {"no_such": 1}).check()


@pytest.mark.parametrize("packed", [False, True])
def test_what_a_calculation_took_is_read_from_its_outcar(tmp_path, packed):
    frame, _ = shuffled()
    labeller = VaspFolders("MPStaticSet", SETTINGS)
    labeller.write(frame, tmp_path)
    shutil.copy(OUTPUT, tmp_path / "vasprun.xml")
    assert labeller.collect(frame, tmp_path).wall_s == 0.0
    text = b"\n                         Elapsed time (sec):      123.456\n"
    (tmp_path / f"OUTCAR{'.gz' * packed}").write_bytes(gzip.compress(text) if packed else text)
    outcome = labeller.collect(frame, tmp_path)
    assert outcome.wall_s == outcome.atoms.info["wall_s"] == 123.456
