"""Files of every kind give the same frames with the same labels."""

import gzip
import shutil
from pathlib import Path

import ase
import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator

from finetune.data.labels import LabelKeys
from finetune.data.reading import expand, read
from finetune.errors import InputError

TRAIN = Path(__file__).parents[1] / "data" / "starting" / "train.extxyz"
VASP = Path(ase.__file__).parent / "test" / "testdata" / "vasp"


def frames_on_calculators(count=3):
    """Real frames whose labels stand where ASE itself puts them."""
    images = ase.io.read(TRAIN, index=f":{count}")
    for atoms in images:
        energy, stress = atoms.info.pop("REF_energy"), atoms.info.pop("REF_stress")
        forces = atoms.arrays.pop("REF_forces")
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
    return images


def test_reference_keys_become_energy_forces_and_stress():
    frame = read(TRAIN)[0]
    atoms = ase.io.read(TRAIN, index=0)
    xx, yy, zz, yz, xz, xy = atoms.info["REF_stress"]
    assert frame.labels.energy.item() == atoms.info["REF_energy"]
    np.testing.assert_array_equal(frame.labels.forces, atoms.arrays["REF_forces"])
    np.testing.assert_array_equal(frame.labels.stress[0], [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    assert {value.dtype for value in frame.labels.known().values()} == {torch.float64}
    assert (frame.family, frame.group) == (atoms.info["family"], atoms.info["group"])
    assert frame.where() == f"frame 0 of {TRAIN}"


def test_a_full_stress_tensor_is_read_like_a_voigt_one(tmp_path):
    atoms = ase.io.read(TRAIN, index=0)
    voigt = read(TRAIN)[0].labels.stress
    atoms.info["REF_stress"] = voigt[0].numpy()
    ase.io.write(tmp_path / "full.extxyz", atoms)
    torch.testing.assert_close(read(tmp_path / "full.extxyz")[0].labels.stress, voigt)


@pytest.mark.parametrize("suffix", ["extxyz", "xyz", "extxyz.gz", "traj", "db"])
def test_labels_survive_every_ase_format(tmp_path, suffix):
    images = frames_on_calculators()
    path = tmp_path / f"frames.{suffix}"
    if suffix == "db":
        with ase.db.connect(path) as database:
            for atoms in images:
                database.write(atoms, family=atoms.info["family"], group=atoms.info["group"])
    else:
        ase.io.write(path, images, format="extxyz" if "xyz" in suffix else None)
    for frame, expected in zip(read(path), read(TRAIN), strict=False):
        np.testing.assert_allclose(frame.labels.energy, expected.labels.energy, rtol=0, atol=1e-6)
        np.testing.assert_allclose(frame.labels.forces, expected.labels.forces, rtol=0, atol=1e-6)
        np.testing.assert_allclose(frame.labels.stress, expected.labels.stress, rtol=0, atol=1e-6)
        np.testing.assert_allclose(frame.atoms.positions, expected.atoms.positions, atol=1e-6)
        assert frame.family == expected.family
        assert frame.group == expected.group
        assert frame.atoms.calc is None


def test_an_ase_database_may_hold_reference_keys(tmp_path):
    atoms = ase.io.read(TRAIN, index=0)
    with ase.db.connect(tmp_path / "keys.db") as database:
        data = {"REF_forces": atoms.arrays["REF_forces"], "REF_stress": atoms.info["REF_stress"]}
        database.write(atoms, REF_energy=atoms.info["REF_energy"], family="glass", data=data)
    frame = read(tmp_path / "keys.db")[0]
    assert frame.content_hash == read(TRAIN)[0].content_hash
    assert frame.family == "glass"


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("vasprun_pstress.xml", "vasprun.xml"),
        ("vasprun_pstress.xml", "relax_vasprun.xml"),
        ("OUTCAR_example_1", "OUTCAR"),
        ("OUTCAR_example_1", "run1_OUTCAR"),
    ],
)
def test_vasp_output_gives_the_free_energy_that_forces_derive_from(tmp_path, source, name, zipped):
    path = tmp_path / name
    shutil.copy(VASP / source, path)
    if zipped:
        path = tmp_path / f"{name}.gz"
        path.write_bytes(gzip.compress((VASP / source).read_bytes()))
    frame = read(path)[-1]
    expected = ase.io.read(VASP / source, format="vasp-xml" if "xml" in source else "vasp-out")
    assert frame.labels.energy.item() == expected.get_potential_energy(force_consistent=True)
    np.testing.assert_array_equal(frame.labels.forces, expected.get_forces())
    np.testing.assert_allclose(frame.labels.stress[0], expected.get_stress(voigt=False), atol=1e-12)
    assert frame.family == "all"
    extrapolated = read(path, LabelKeys(energy="energy"))[-1]
    assert extrapolated.labels.energy.item() == expected.get_potential_energy()


def test_vasp_outcar_energy_differs_from_the_extrapolated_one():
    outcar = VASP / "OUTCAR_example_1"
    free, extrapolated = read(outcar)[0], read(outcar, LabelKeys(energy="energy"))[0]
    assert abs(free.labels.energy - extrapolated.labels.energy).item() > 1e-3


def test_missing_labels_are_nan(tmp_path):
    atoms = ase.io.read(TRAIN, index=0)
    del atoms.info["REF_stress"]
    ase.io.write(tmp_path / "a.extxyz", [atoms, ase.io.read(TRAIN, index=1)])
    first, second = read(tmp_path / "a.extxyz")
    assert first.labels.stress.isnan().all()
    assert first.labels.magmoms.isnan().all()
    assert first.labels.energy.isfinite().all()
    assert second.labels.stress.isfinite().all()


def test_magnetic_moments_are_read(tmp_path):
    atoms = ase.io.read(TRAIN, index=0)
    atoms.arrays["REF_magmoms"] = np.linspace(0, 1, len(atoms))
    ase.io.write(tmp_path / "a.extxyz", atoms)
    np.testing.assert_allclose(read(tmp_path / "a.extxyz")[0].labels.magmoms, np.linspace(0, 1, len(atoms)), atol=1e-7)


def test_label_keys_are_settings(tmp_path):
    atoms = ase.io.read(TRAIN, index=0)
    atoms.info["dft_energy"] = atoms.info.pop("REF_energy")
    atoms.arrays["dft_forces"] = atoms.arrays.pop("REF_forces")
    atoms.info["dft_stress"] = atoms.info.pop("REF_stress")
    ase.io.write(tmp_path / "a.extxyz", atoms)
    frame = read(tmp_path / "a.extxyz", LabelKeys("dft_energy", "dft_forces", "dft_stress"))[0]
    assert frame.content_hash == read(TRAIN)[0].content_hash


def test_keys_win_over_a_stored_calculator_and_what_is_left_is_said(tmp_path):
    atoms = ase.io.read(TRAIN, index=0)
    energy = atoms.info["REF_energy"]
    del atoms.info["REF_stress"]
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, stress=np.ones(6))
    ase.io.write(tmp_path / "a.traj", atoms)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    with pytest.warns(UserWarning, match=r"stress on stored calculators is ignored.*keys\.stress"):
        frame = read(tmp_path / "a.extxyz")[0]
    assert frame.labels.energy.item() == energy
    assert frame.labels.stress.isnan().all()
    both = read(tmp_path / "a.extxyz", LabelKeys(stress="stress"))[0]
    np.testing.assert_array_equal(both.labels.stress[0].diagonal(), np.ones(3))


def test_files_folders_and_patterns_are_read_once_each_in_order(tmp_path):
    images = ase.io.read(TRAIN, index=":2")
    for name in ("b.extxyz", "a.extxyz", "c.xyz"):
        ase.io.write(tmp_path / name, images, format="extxyz")
    names = [Path(frame.source).name for frame in read([tmp_path, tmp_path / "*.xyz", tmp_path / "b.extxyz"])]
    assert names == ["a.extxyz"] * 2 + ["b.extxyz"] * 2 + ["c.xyz"] * 2
    assert [path.name for path in expand([tmp_path / "b.extxyz", tmp_path])] == ["b.extxyz", "a.extxyz"]


def test_frames_without_group_are_grouped_by_file_and_composition(tmp_path):
    images = ase.io.read(TRAIN, index=":6")
    for atoms in images:
        del atoms.info["group"], atoms.info["family"]
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        ase.io.write(tmp_path / folder / "md.extxyz", images + images[::-1])
    frames = read([tmp_path / "one", tmp_path / "two"])
    formulas = {frame.atoms.get_chemical_formula() for frame in frames}
    assert {f.group for f in frames} == {f"{d}/md.extxyz:{formula}" for d in ("one", "two") for formula in formulas}
    assert {frame.family for frame in frames} == {"md"}


def test_structures_to_predict_need_no_labels(tmp_path):
    atoms = ase.io.read(TRAIN, index=0)
    bare = ase.Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    ase.io.write(tmp_path / "bare.extxyz", bare)
    assert read(tmp_path / "bare.extxyz", labelled=False)[0].given == {}
    with pytest.raises(InputError, match="no labels"):
        read(tmp_path / "bare.extxyz")


def test_a_misspelt_key_of_forces_is_told(interface_frames, tmp_path):
    for atoms in interface_frames:
        atoms.arrays["REF_force"] = atoms.arrays.pop("REF_forces")
    ase.io.write(tmp_path / "typo.extxyz", interface_frames, format="extxyz")
    with pytest.warns(
        UserWarning, match=r"no forces label is read in .* but they have REF_force.*--keys\.forces REF_force"
    ):
        read(tmp_path / "typo.extxyz")
