"""What a user can do wrong with data is refused in words that name file, frame and remedy."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from finetune.backbones.chgnet import CHGNet
from finetune.data.caching import build_graphs
from finetune.data.checking import check, check_units, intensive_energy_ratio
from finetune.data.labels import LabelKeys
from finetune.data.module import FrameData
from finetune.data.reading import read
from finetune.errors import InputError

FOLDER = Path(__file__).parents[1] / "data" / "starting"
TRAIN = FOLDER / "train.extxyz"


def written(tmp_path, change, count=3, name="train.extxyz"):
    """A file of real frames, the second of which is changed."""
    images = ase.io.read(TRAIN, index=f":{count}")
    change(images[1])
    ase.io.write(tmp_path / name, images)
    return tmp_path / name


def refused(path, **keys):
    with pytest.raises(InputError) as caught:
        check(read(path, LabelKeys(**keys)))
    message = str(caught.value)
    assert path.name in message
    return message


@pytest.mark.parametrize("name", ["train.extxyz", "train.traj", "train.db", "vasprun.xml", "OUTCAR", "train.extxyz.gz"])
@pytest.mark.parametrize("content", [b"", b"this is not what the name says\n", b"\x00\x01\x02\xff" * 40])
def test_an_empty_or_unreadable_file_is_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert ("empty" if not content else "cannot read") in refused(path)


def test_a_truncated_file_says_after_which_frame(tmp_path):
    text = TRAIN.read_text()
    (tmp_path / "cut.extxyz").write_text(text[: len(text) // 2])
    assert "cannot read" in refused(tmp_path / "cut.extxyz")


def test_a_file_that_is_not_there_offers_the_nearest(tmp_path):
    (tmp_path / "train.extxyz").write_text("")
    with pytest.raises(InputError, match=r"trian\.extxyz: no such file; did you mean train\.extxyz\?"):
        read(tmp_path / "trian.extxyz")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("*.extxyz", "no such file"),
        ("nowhere/a.extxyz", "no such file or folder"),
        ("", r"no \*\.extxyz in this folder"),
    ],
)
def test_paths_that_lead_to_nothing(tmp_path, name, words):
    with pytest.raises(InputError, match=words):
        read(tmp_path / name)


def test_no_files_at_all():
    with pytest.raises(InputError, match="no data files"):
        read([])


def test_an_unknown_format_lists_the_known_ones(tmp_path):
    (tmp_path / "frames.hdf5").write_bytes(b"x")
    with pytest.raises(InputError, match="known are extended XYZ"):
        read(tmp_path / "frames.hdf5")


def test_no_labels_suggests_the_keys_that_are_there(tmp_path):
    atoms = ase.io.read(TRAIN, index=0)
    atoms.info["dft_energy"] = atoms.info.pop("REF_energy")
    atoms.arrays["dft_forces"] = atoms.arrays.pop("REF_forces")
    del atoms.info["REF_stress"]
    ase.io.write(tmp_path / "a.extxyz", atoms)
    message = refused(tmp_path / "a.extxyz")
    assert "no labels" in message
    assert "--keys.energy dft_energy" in message
    assert "--keys.forces dft_forces" in message


def test_a_label_key_that_is_not_there_offers_those_that_are():
    with pytest.raises(InputError, match=r"train\.extxyz has the energy key 'REF_enregy'; it has REF_energy"):
        read(TRAIN, LabelKeys(energy="REF_enregy"))


def test_mixed_label_keys_are_refused(tmp_path):
    def change(atoms):
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.info.pop("REF_energy"))
        del atoms.info["REF_stress"], atoms.arrays["REF_forces"]

    message = refused(written(tmp_path, change, name="mixed.traj"))
    assert "mixed label keys" in message
    assert "frame 1 of" in message


def test_free_energies_are_not_mixed_with_others(tmp_path):
    images = ase.io.read(TRAIN, index=":2")
    for atoms, more in zip(images, [{}, {"free_energy": -2.0}], strict=True):
        atoms.info, atoms.calc = {}, SinglePointCalculator(atoms, energy=-1.0, **more)
        del atoms.arrays["REF_forces"]
    ase.io.write(tmp_path / "mixed.traj", images)
    assert "mixed energies" in refused(tmp_path / "mixed.traj")
    frames = read(tmp_path / "mixed.traj", LabelKeys(energy="energy"))
    assert [frame.labels.energy.item() for frame in frames] == [-1, -1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("label", ["energy", "forces", "stress"])
def test_labels_that_are_not_finite_are_refused(tmp_path, label, value):
    def change(atoms):
        if label == "energy":
            atoms.info["REF_energy"] = value
        elif label == "stress":
            atoms.info["REF_stress"][2] = value
        else:
            atoms.arrays["REF_forces"][3, 1] = value

    message = refused(written(tmp_path, change))
    assert "frame 1 of" in message
    assert label in message
    assert "NaN or infinite" in message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("REF_energy", np.ones(3), "energy of shape (3,)"),
        ("REF_energy", "unknown", "not a number"),
        ("REF_stress", np.ones(4), "stress of shape (4,)"),
        ("REF_stress", np.arange(9.0).reshape(3, 3), "not symmetric"),
        ("REF_forces", np.ones(2), "forces of shape"),
    ],
)
def test_labels_of_the_wrong_shape_are_refused(tmp_path, key, value, words):
    def change(atoms):
        if key in atoms.arrays:
            atoms.arrays[key] = np.ones((len(atoms), 2))
        else:
            atoms.info[key] = value

    message = refused(written(tmp_path, change))
    assert "frame 1 of" in message
    assert words in message


def overlap(atoms):
    atoms.positions[5] = atoms.positions[2] + [0.05, 0, 0]


def overlap_across_the_boundary(atoms):
    atoms.positions[5] = atoms.positions[2] + atoms.cell[0] + [0, 0.05, 0]


def flatten(atoms):
    atoms.cell[2] = atoms.cell[1]


def open_cell(atoms):
    atoms.set_cell(None)
    atoms.pbc = False


def scatter(atoms):
    atoms.positions[0, 0] = np.nan


def unlabel(atoms):
    del atoms.info["REF_energy"], atoms.info["REF_stress"], atoms.arrays["REF_forces"]


def scale_forces(atoms):
    atoms.arrays["REF_forces"] *= 1e4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (overlap, "has atoms 2 and 5 on top of each other (0.05 Å apart)"),
        (overlap_across_the_boundary, "on top of each other (0.05 Å apart)"),
        (flatten, "zero volume"),
        (open_cell, "has a stress but no full cell"),
        (scatter, "not finite"),
        (unlabel, "has no energy, forces or stress; label it or drop it"),
        (scale_forces, "check the unit"),
    ],
)
def test_impossible_frames_are_refused_by_name(tmp_path, change, words):
    message = refused(written(tmp_path, change))
    assert "frame 1 of" in message
    assert words in message
    assert "frame 0 of" not in message


def test_a_frame_without_atoms_is_refused(tmp_path):
    ase.io.write(tmp_path / "train.traj", [ase.io.read(TRAIN, index=0), Atoms(info={"REF_energy": 0.0})])
    message = refused(tmp_path / "train.traj")
    assert "frame 1 of" in message
    assert "has no atoms" in message


def test_all_problems_are_counted_and_the_first_are_shown(tmp_path):
    images = ase.io.read(TRAIN, index=":9")
    for atoms in images[1:]:
        overlap(atoms)
    ase.io.write(tmp_path / "train.extxyz", images)
    message = refused(tmp_path / "train.extxyz")
    assert message.startswith("8 problems in 9 frames")
    assert "frame 5 of" in message
    assert "frame 6 of" not in message
    assert message.endswith("and 3 more")


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_the_shipped_frames_pass_every_check(part):
    frames = read(FOLDER / f"{part}.extxyz")
    check(frames)
    check_units(frames)


def changed(tmp_path, change):
    images = ase.io.read(TRAIN, index=":")
    for atoms in images:
        change(atoms)
    ase.io.write(tmp_path / "train.extxyz", images)
    frames = read(tmp_path / "train.extxyz")
    check(frames)
    return frames


def test_energies_per_atom_are_refused(tmp_path):
    def change(atoms):
        atoms.info["REF_energy"] /= len(atoms)

    assert intensive_energy_ratio(read(TRAIN)) > 3
    with pytest.raises(InputError, match="do not grow with the number of atoms"):
        check_units(changed(tmp_path, change))


def test_energies_of_another_zero_are_accepted(tmp_path):
    def change(atoms):
        atoms.info["REF_energy"] -= 203.0 * np.sum(atoms.numbers == 3) - 40.0 * np.sum(atoms.numbers == 16)

    check_units(changed(tmp_path, change))


def test_energies_of_equal_cells_cannot_be_judged():
    frames = [frame for frame in read(TRAIN) if len(frame.atoms) == 28]
    assert intensive_energy_ratio(frames) == float("inf")


def test_stresses_in_gpa_are_refused(tmp_path):
    def change(atoms):
        atoms.info["REF_stress"] *= 160.2

    with pytest.raises(InputError, match="if they are in GPa"):
        check_units(changed(tmp_path, change))


def test_forces_that_do_not_add_up_are_said(tmp_path):
    def change(atoms):
        atoms.arrays["REF_forces"] = np.abs(atoms.arrays["REF_forces"])

    with pytest.warns(UserWarning, match="of 44 frames do not add up to zero, first frame 0 of"):
        check_units(changed(tmp_path, change))


def test_units_are_checked_at_the_door_unless_told_not_to(tmp_path):
    def change(atoms):
        atoms.info["REF_energy"] /= len(atoms)

    changed(tmp_path, change)
    with pytest.raises(InputError, match="eV/atom"):
        FrameData(train=str(tmp_path / "train.extxyz")).frames("train")
    assert FrameData(train=str(tmp_path / "train.extxyz"), units=False).frames("train")


def test_an_element_that_the_potential_does_not_know_is_named_with_its_frame(tmp_path):
    def change(atoms):
        atoms.numbers[0] = 95

    frames = read(written(tmp_path, change))
    with pytest.raises(InputError, match=r"frame 1 of .*train\.extxyz: CHGNet does not know Am"):
        build_graphs(CHGNet.tiny(), frames)
