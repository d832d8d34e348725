"""Inputs that people have: each is read as what it is, or named in one line with the remedy."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory

from finetune.data.checking import check, check_units, rounded
from finetune.data.labels import LabelKeys
from finetune.data.reading import expand, read
from finetune.data.structures import read_structure
from finetune.doctor.contents import label_keys
from finetune.doctor.stress_order import ORDERS, READ, better_order
from finetune.errors import InputError, UnlabelledError
from finetune.md.velocities import named_velocities, warn_unread

from .structures import ROOT

CASES = Path(__file__).parent / "cases"
SHIPPED = ROOT / "data/starting/train.extxyz"
PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.fixture
def images():
    """Four small frames with `REF_` labels."""
    return sorted(ase.io.read(SHIPPED, ":"), key=len)[:4]


@pytest.fixture
def text(images, tmp_path):
    """The frames as extended XYZ."""
    ase.io.write(tmp_path / "plain.extxyz", images, format="extxyz")
    return (tmp_path / "plain.extxyz").read_text()


def labels_of(path, **keys):
    return [frame.labels for frame in read(path, LabelKeys(**keys))]


def same(frames, images):
    assert len(frames) == len(images)
    for frame, atoms in zip(frames, images, strict=True):
        np.testing.assert_allclose(frame.atoms.positions, atoms.positions, atol=1e-7)
        assert frame.labels.energy.item() == pytest.approx(atoms.info["REF_energy"], abs=1e-6)
        np.testing.assert_allclose(frame.labels.forces, atoms.arrays["REF_forces"], atol=1e-7)


def problem(path, **keys):
    """The message that a file is refused with."""
    with pytest.raises(InputError) as caught:
        check(read(path, LabelKeys(**keys)))
    return str(caught.value)


# text forms


FORMS = {
    "byte-order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16 without mark": lambda text: text.encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "line ends of Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "line ends of old Macs": lambda text: text.replace("\n", "\r").encode(),
    "blank lines between frames": lambda text: re.sub(r"(?m)^(?=\d+$)", "\n  \n", text).encode(),
    "blank lines at the end": lambda text: (text + "\n \n\n").encode(),
    "exponents of Fortran": lambda text: re.sub(r"(?m) (-?\d+\.\d{8})(?=\s)", r" \1D+00", text).encode(),
    "small exponents of Fortran": lambda text: re.sub(r"(?m) (-?\d+\.\d{8})(?=\s)", r" \1d0", text).encode(),
    "no line end at the end": lambda text: text.rstrip("\n").encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_frame_of_a_text_is_read_whatever_wrote_it(tmp_path, text, images, form):
    (tmp_path / "a.extxyz").write_bytes(FORMS[form](text))
    same(read(tmp_path / "a.extxyz"), images)


def test_fortran_numbers_in_the_comment_are_labels(tmp_path, text, images):
    (tmp_path / "a.extxyz").write_text(re.sub(r"REF_energy=(-?)(\d+)\.(\d+)", r"REF_energy=\g<1>.\2\3D+0000", text))
    scaled = labels_of(tmp_path / "a.extxyz")
    for found, atoms in zip(scaled, images, strict=True):
        digits = len(str(int(abs(atoms.info["REF_energy"]))))
        assert found.energy.item() == pytest.approx(atoms.info["REF_energy"] / 10**digits)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: [*lines[:4], "\n", *lines[4:]], r"line 5 has a blank line, expected 7 columns"),
        (lambda lines: [*lines[:4], *lines[5:]], r"frame 0.*line \d+|frame 1.*line \d+"),
        (
            lambda lines: [*lines[:2], lines[2].replace(lines[2].split()[1], "********"), *lines[3:]],
            "line 3 has",
        ),
        (
            lambda lines: [*lines[:2], lines[2].replace(lines[2].split()[1], "0.1-101"), *lines[3:]],
            "line 3 has",
        ),
        (lambda lines: ["twelve\n", *lines[1:]], r"line 1 is 'twelve', expected a number of atoms"),
        (lambda lines: lines[:5], r"it ends after 3 of \d+ atoms"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path, text, change, words):
    (tmp_path / "a.extxyz").write_text("".join(change(text.splitlines(keepends=True))))
    message = problem(tmp_path / "a.extxyz")
    assert re.search(words, message)
    assert "a.extxyz" in message


def test_bytes_that_are_no_text_are_told(tmp_path, text):
    (tmp_path / "a.extxyz").write_bytes(text.replace("family=", "family=größe_", 1).encode("latin-1"))
    assert "Save it as UTF-8" in problem(tmp_path / "a.extxyz")


def test_a_frame_is_reached_by_its_number_in_a_file_with_blank_lines(tmp_path, text, images):
    (tmp_path / "a.extxyz").write_bytes(FORMS["blank lines between frames"](text))
    for name, k in (("", -1), ("@0", 0), ("@2", 2), ("@-2", -2)):
        np.testing.assert_allclose(
            read_structure(f"{tmp_path / 'a.extxyz'}{name}").positions, images[k].positions, atol=1e-7
        )
    with pytest.raises(InputError, match="no frame 9 in it"):
        read_structure(f"{tmp_path / 'a.extxyz'}@9")


# labels that are not numbers


@pytest.mark.parametrize("value", ["", "=T", "=None", '="-3.2 eV"', "=nan", "=inf", '="1.0 2.0"', "=[]"])
def test_an_energy_that_is_no_number_is_refused_with_its_frame(tmp_path, text, value):
    changed = re.sub(r"REF_energy=\S+", f"REF_energy{value}", text, count=1)
    (tmp_path / "a.extxyz").write_text(changed)
    message = problem(tmp_path / "a.extxyz")
    assert "frame 0 of" in message
    assert "energy" in message


@pytest.mark.parametrize("value", [True, None, "12", np.True_, [None], 1j, np.float64("nan")])
def test_an_energy_that_is_no_number_is_refused_in_binary_files_too(tmp_path, images, value):
    images[2].info["REF_energy"] = value
    with Trajectory(tmp_path / "a.traj", "w") as file:
        for atoms in images:
            file.write(atoms)
    assert "frame 2 of" in problem(tmp_path / "a.traj")


@pytest.mark.parametrize("value", [-3, np.int32(-3), np.float32(-3), [-3.0], np.array(-3.0)])
def test_numbers_of_any_kind_are_energies(tmp_path, images, value):
    images[0].info["REF_energy"] = value
    with Trajectory(tmp_path / "a.traj", "w") as file:
        file.write(images[0])
    frames = read(tmp_path / "a.traj")
    check(frames)
    assert frames[0].labels.energy.item() == -3.0


def test_forces_of_booleans_are_refused(tmp_path, images):
    images[1].arrays["REF_forces"] = np.ones((len(images[1]), 3), dtype=bool)
    ase.io.write(tmp_path / "a.extxyz", images, format="extxyz")
    assert "frame 1 of" in problem(tmp_path / "a.extxyz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda atoms: atoms.info.update(REF_energy=1e300), r"energy of 1e\+300 eV"),
        (lambda atoms: atoms.positions.__setitem__(0, 1e12), r"1e\+12 Å"),
        (lambda atoms: atoms.info.update(REF_stress=np.full(6, 1e9)), r"stress of 1e\+09 eV/Å³"),
    ],
)
def test_absurd_numbers_are_refused_with_their_frame(tmp_path, images, change, words):
    change(images[1])
    with Trajectory(tmp_path / "a.traj", "w") as file:
        for atoms in images:
            file.write(atoms)
    assert re.search(rf"frame 1 of .*{words}", problem(tmp_path / "a.traj"))


def test_all_electron_energies_of_heavy_elements_are_not_absurd(tmp_path):
    atoms = Atoms("U2", [[0, 0, 0], [0, 0, 2.8]])
    atoms.info["REF_energy"] = -2 * 28_000 * units.Hartree
    ase.io.write(tmp_path / "a.extxyz", atoms)
    check(read(tmp_path / "a.extxyz"))


# labels under other keys


@pytest.mark.parametrize("key", ["TotEnergy", "total_energy", "dft_energy", "Energy", "E_tot", "etot", "toten"])
def test_an_energy_under_another_key_is_told_while_forces_are_read(tmp_path, images, key):
    for atoms in images:
        atoms.info[key] = atoms.info.pop("REF_energy")
        atoms.info["energy_per_atom"] = atoms.info[key] / len(atoms)
        atoms.info["kinetic_energy"] = 1.0
    ase.io.write(tmp_path / "a.extxyz", images, format="extxyz")
    with pytest.warns(UserWarning, match=rf"no energy label is read in 4 of 4 frames.*--keys\.energy {key} "):
        frames = read(tmp_path / "a.extxyz")
    (finding,) = [f for f in label_keys(frames, LabelKeys()) if f.check == "energy labels"]
    assert f"--keys.energy {key}" in finding.remedy
    named = read(tmp_path / "a.extxyz", LabelKeys(energy=key))
    assert named[0].labels.energy.item() == pytest.approx(images[0].info[key])


def test_energies_that_are_no_total_energies_are_not_offered(tmp_path, images):
    for atoms in images:
        del atoms.info["REF_energy"]
        atoms.info |= {"formation_energy": 0.1, "energy_per_atom": -3.0, "energy_cutoff": 400.0, "energy_std": 0.1}
    ase.io.write(tmp_path / "a.extxyz", images, format="extxyz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path / "a.extxyz")[0].labels.energy.isnan().all()


def test_a_label_that_only_some_frames_have_under_another_key_is_told(tmp_path, images):
    for atoms in images[2:]:
        atoms.arrays["dft_forces"] = atoms.arrays.pop("REF_forces")
    ase.io.write(tmp_path / "a.extxyz", images, format="extxyz")
    with pytest.warns(UserWarning, match=r"no forces label is read in 2 of 4 frames.*--keys\.forces dft_forces"):
        read(tmp_path / "a.extxyz")


def test_moments_alone_are_no_labels(tmp_path, images):
    for atoms in images:
        atoms.arrays["REF_magmoms"] = np.zeros(len(atoms))
        del atoms.info["REF_energy"], atoms.info["REF_stress"], atoms.arrays["REF_forces"]
    ase.io.write(tmp_path / "a.extxyz", images, format="extxyz")
    with pytest.raises(UnlabelledError, match="no labels"):
        read(tmp_path / "a.extxyz")


def test_a_free_energy_that_differs_from_the_energy_is_told(tmp_path, images):
    for atoms in images:
        energy = atoms.info.pop("REF_energy")
        forces = atoms.arrays.pop("REF_forces")
        atoms.calc = SinglePointCalculator(atoms, energy=energy, free_energy=energy - 0.5, forces=forces)
        del atoms.info["REF_stress"]
    ase.io.write(tmp_path / "a.extxyz", images, format="extxyz")
    with pytest.warns(UserWarning, match=r"differ, first frame 0 of .* by 0\.5 eV.*--keys\.energy energy"):
        read(tmp_path / "a.extxyz")


# virials and stress


def virials_of(atoms, form):
    """Virials (eV) of the stress of a frame, as 3x3 or in Voigt order."""
    xx, yy, zz, yz, xz, xy = -np.asarray(atoms.info["REF_stress"]) * atoms.get_volume()
    full = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    return {"3x3": full, "9": full.ravel(), "Voigt": np.array([xx, yy, zz, yz, xz, xy])}[form]


@pytest.mark.parametrize("form", ["3x3", "9", "Voigt"])
@pytest.mark.parametrize("key", ["virial", "virials", "REF_virial", "REF_virials", "dft_virial"])
def test_virials_are_read_when_asked_for_and_told_otherwise(tmp_path, images, key, form):
    stress = [labels.stress for labels in _labels_of_images(images, tmp_path)]
    for atoms in images:
        atoms.info[key] = virials_of(atoms, form)
        del atoms.info["REF_stress"]
    ase.io.write(tmp_path / "a.extxyz", images, format="extxyz")
    with pytest.warns(UserWarning, match=rf"no stress is read in 4 of 4.*--keys\.virials {key} .*-virial / volume"):
        frames = read(tmp_path / "a.extxyz")
    (finding,) = [f for f in label_keys(frames, LabelKeys()) if f.check == "stress labels"]
    assert f"--keys.virials {key}" in finding.remedy
    assert "--keys.stress" not in finding.remedy
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = labels_of(tmp_path / "a.extxyz", virials=key)
    for labels, expected in zip(found, stress, strict=True):
        np.testing.assert_allclose(labels.stress, expected, atol=1e-7)


def _labels_of_images(images, tmp_path):
    ase.io.write(tmp_path / "with_stress.extxyz", images, format="extxyz")
    return labels_of(tmp_path / "with_stress.extxyz")


def test_a_key_of_virials_that_no_frame_has_is_told(tmp_path, text):
    (tmp_path / "a.extxyz").write_text(text)
    assert "no frame of" in problem(tmp_path / "a.extxyz", virials="virial")


def test_six_numbers_of_stress_under_the_name_of_ase_are_read(tmp_path, images, text):
    stress = [np.asarray(atoms.info["REF_stress"]) for atoms in images]
    changed = text.replace("REF_stress=", "stress=").replace("REF_energy", "energy").replace("REF_forces", "forces")
    (tmp_path / "a.extxyz").write_text(changed)
    for labels, (xx, yy, zz, yz, xz, xy) in zip(labels_of(tmp_path / "a.extxyz"), stress, strict=True):
        np.testing.assert_allclose(labels.stress[0], [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]], atol=1e-7)


def test_a_row_of_nine_is_refused_with_its_shape(tmp_path, images):
    images[0].info["REF_stress"] = np.arange(9.0).reshape(1, 9)
    ase.io.write(tmp_path / "a.extxyz", images, format="extxyz")
    assert "(1, 9)" in problem(tmp_path / "a.extxyz")


def test_stresses_that_are_exactly_zero_are_told_as_unknown(tmp_path, images):
    images[3].info["REF_stress"] = np.zeros(6)
    ase.io.write(tmp_path / "a.extxyz", images, format="extxyz")
    with pytest.warns(UserWarning, match=r"exactly 0 in 1 of 4 frames, first frame 3 of.*probably not known"):
        check_units(read(tmp_path / "a.extxyz"))


@pytest.mark.parametrize(
    ("key", "step", "words"),
    [
        ("REF_energy", 1.0, "multiples of 1 eV"),
        ("REF_energy", 0.1, "multiples of 0.1 eV"),
        ("REF_forces", 0.1, "multiples of 0.1 eV/Å, an error of 29 meV/Å"),
        ("REF_stress", 0.01, "multiples of 0.01 eV/Å³, an error of 2.9 meV/Å³"),
    ],
)
def test_labels_that_were_rounded_when_they_were_written_are_named(tmp_path, images, key, step, words):
    for atoms in [*images, *(copies := [atoms.copy() for atoms in images])]:
        store = atoms.info if key in atoms.info else atoms.arrays
        store[key] = np.round(np.asarray(store[key]) / step) * step
    ase.io.write(tmp_path / "a.extxyz", [*images, *copies], format="extxyz")
    found = rounded(read(tmp_path / "a.extxyz"))
    assert len(found) == 1
    assert words in found[0]
    with pytest.warns(UserWarning, match="multiples of"):
        check_units(read(tmp_path / "a.extxyz"))


@pytest.mark.parametrize("number", [0, 200, -1])
def test_an_atomic_number_that_no_element_has_is_named_with_its_frame(tmp_path, images, number):
    ase.io.write(tmp_path / "a.extxyz", images[:1], format="extxyz")
    count, header, *rows = (tmp_path / "a.extxyz").read_text().splitlines()
    header = header.replace("species:S:1", "Z:I:1")
    rows = [" ".join([str(number), *row.split()[1:]]) for row in rows]
    (tmp_path / "b.extxyz").write_text("\n".join([count, header, *rows]) + "\n")
    assert re.search(r"frame 0.* element .* not known", problem(tmp_path / "b.extxyz"))


@pytest.mark.parametrize("stem", ["v", "vel", "vel_", "velocity_"])
def test_velocities_in_three_columns_are_found(stem, images):
    for axis, name in enumerate("xyz"):
        images[0].set_array(f"{stem}{name}", np.full(len(images[0]), 0.1 * (axis + 1)))
    assert named_velocities(images[0]) == [f"{stem}{axis}" for axis in "xyz"]


def test_momenta_under_another_name_are_named(images):
    images[0].set_array("momentum", np.ones((len(images[0]), 3)))
    with pytest.warns(UserWarning, match="momentum of the structure is not read"):
        warn_unread(images[0])


def test_labels_with_all_their_digits_are_not_called_rounded():
    assert rounded(read(ROOT / "data/interface")) == []
    assert rounded(read(ROOT / "data/reference")) == []


def tensors(values, order=READ):
    full = np.empty((len(values), 3, 3))
    for k, name in enumerate(order):
        i, j = ("xyz".index(letter) for letter in name)
        full[:, i, j] = full[:, j, i] = values[:, k]
    return full


@pytest.mark.parametrize("scale", [1.0, -1.0, -1602.18], ids=["eV/Å³", "pressure", "kbar of VASP"])
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_another_order_of_the_stress_components_is_found(order, scale):
    rng = np.random.default_rng(0)
    stress = rng.normal(size=(12, 6)) * [0.02, 0.02, 0.02, 0.01, 0.01, 0.01]
    model = tensors(0.8 * stress + rng.normal(size=stress.shape) * 0.003)
    stored = stress[:, [READ.index(name) for name in order]]
    words = better_order(tensors(scale * stored), model)
    assert (f"in the order {' '.join(order)}" in words) == (order != READ)


@pytest.mark.parametrize("normal", ["yy xx zz", "zz yy xx", "yy zz xx"])
def test_exchanged_normal_components_are_found_and_the_order_is_named(normal):
    rng = np.random.default_rng(2)
    order = (*normal.split(), "yz", "xz", "xy")
    stress = rng.normal(size=(12, 6)) * 0.02
    words = better_order(tensors(stress[:, [READ.index(name) for name in order]]), tensors(0.8 * stress))
    assert f"in the order {normal} yz xz xy" in words


def test_the_order_of_shear_that_is_noise_is_not_guessed():
    rng = np.random.default_rng(1)
    stress = rng.normal(size=(20, 6)) * [0.02, 0.02, 0.02, 1e-6, 1e-6, 1e-6]
    found = [better_order(tensors(stress), tensors(stress + rng.normal(size=stress.shape) * 0.004)) for _ in range(50)]
    assert not any(found)


# magnetic moments


def test_vector_moments_are_left_out_with_a_warning_and_null_switches_them_off(tmp_path, images):
    for atoms in images:
        atoms.arrays["REF_magmoms"] = np.ones((len(atoms), 3))
    ase.io.write(tmp_path / "a.extxyz", images, format="extxyz")
    with pytest.warns(UserWarning, match=r"vectors \(non-collinear\), first frame 0 of.*--keys\.magmoms null"):
        frames = read(tmp_path / "a.extxyz")
    check(frames)
    same(frames, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frames = read(tmp_path / "a.extxyz", LabelKeys(magmoms=None))
    assert "magmoms" not in frames[0].given


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_null_leaves_any_label_out(tmp_path, text, name):
    (tmp_path / "a.extxyz").write_text(text)
    assert name not in read(tmp_path / "a.extxyz", LabelKeys(**{name: None}))[0].given


# elements


@pytest.mark.parametrize(
    ("symbol", "remedy"),
    [("D", "Write H"), ("T", "Write H"), ("X", "leave it out"), ("Li1", "Write Li"), ("S2-", "Write S"),
     ("1", "Types of LAMMPS"), ("16", "Types of LAMMPS"), ("Qq", "chemical symbols")],
)  # fmt: skip
def test_a_symbol_that_is_no_element_is_named_with_its_frame(tmp_path, text, symbol, remedy):
    lines = text.splitlines(keepends=True)
    second = int(lines[0]) + 2
    lines[second + 2] = symbol + lines[second + 2][len(lines[second + 2].split()[0]) :]
    (tmp_path / "a.extxyz").write_text("".join(lines))
    message = problem(tmp_path / "a.extxyz")
    assert f"a.extxyz, frame 1: element {symbol} is not known" in message
    assert remedy in message


def test_an_atomic_number_that_is_no_element_is_named_with_its_frame(tmp_path, images):
    images[1].numbers[0] = 0
    with Trajectory(tmp_path / "a.traj", "w") as file:
        for atoms in images:
            file.write(atoms)
    assert re.search("frame 1 of .* has element .* not known", problem(tmp_path / "a.traj"))


def test_deuterium_in_a_cif_is_hydrogen_of_its_mass():
    atoms = read_structure(str(CASES / "LiD.cif"))
    np.testing.assert_allclose(sorted(set(atoms.get_masses())), [2.014, 6.94], atol=1e-3)
    assert set(atoms.symbols) == {"Li", "H"}


# VASP


def test_steps_of_the_force_field_of_vasp_are_no_labels():
    with pytest.warns(UserWarning, match="3 of 6 ionic steps are of VASP's machine-learned force field"):
        frames = read(CASES / "OUTCAR_train.xz")
    assert len(frames) == 3
    assert frames[0].labels.energy.item() == pytest.approx(-29.92115957)
    assert frames[1].labels.energy.item() == pytest.approx(-29.83308742)  # step 3, after two of the force field
    assert [frame.index for frame in frames][:2] == [0, 3]
    with pytest.raises(InputError, match=r"all 6 ionic steps are of VASP's machine-learned force field.*no DFT labels"):
        read(CASES / "vasprun_run.xml.xz")


def test_force_field_steps_of_a_vasprun_are_left_out_wherever_they_stand(tmp_path):
    content = lzma.decompress((CASES / "vasprun_unconverged.xml.xz").read_bytes()).decode()
    blocks = re.findall(r"<calculation>.*?</calculation>", content, re.DOTALL)
    bare = [re.sub(r"<scstep>.*?</scstep>", "", block, flags=re.DOTALL) for block in blocks]
    loose = [block.replace("<calculation>", "").replace("</calculation>", "") for block in bare]
    for name, step in (("inside", bare), ("outside", loose)):
        path = tmp_path / f"vasprun_{name}.xml"
        path.write_text(content.replace(blocks[1], step[1]).replace(blocks[3], step[3]))
        with pytest.warns(UserWarning, match="2 of 6 ionic steps are of VASP's machine-learned"):
            assert [frame.index for frame in read(path)] == [0, 2, 4, 5]


def test_steps_whose_electrons_did_not_converge_are_left_out_and_named(tmp_path):
    with pytest.warns(UserWarning, match=r"did not converge in 1 of 6 ionic steps: frame 3 \(NELM = 60\); left"):
        frames = read(CASES / "vasprun_unconverged.xml.xz")
    assert [frame.index for frame in frames] == [0, 1, 2, 4, 5]
    assert len(read(CASES / "vasprun_unconverged.xml.xz", labelled=False)) == 6  # structures are sound
    content = lzma.decompress((CASES / "vasprun_unconverged.xml.xz").read_bytes()).decode()
    blocks = re.findall(r"<calculation>.*?</calculation>", content, re.DOTALL)
    alone = content
    for block in (*blocks[:3], *blocks[4:]):
        alone = alone.replace(block, "")
    (tmp_path / "vasprun.xml").write_text(alone)
    with pytest.raises(InputError, match=r"did not converge in 1 of 1 ionic steps.*no step is left"):
        read(tmp_path / "vasprun.xml")
    (tmp_path / "vasprun.xml").write_text(content.replace(">    60<", ">   100<").replace(">   60<", ">  100<"))
    assert len(read(tmp_path / "vasprun.xml")) == 6


@pytest.mark.filterwarnings("ignore:.*machine-learned force field")
def test_unconverged_steps_of_an_outcar_are_left_out_and_named(tmp_path):
    text = lzma.decompress((CASES / "OUTCAR_train.xz").read_bytes()).decode()
    text = text.replace("NELM   =     60", "NELM   =      8")
    first = text.index("aborting loop because EDIFF is reached")
    cut = text[:first] + "aborting loop EDIFF was not reached (unconverged)" + text[first + 38 :]
    (tmp_path / "OUTCAR").write_text(cut)
    with pytest.warns(UserWarning, match=r"frame 0 \(NELM = 8\)"):
        frames = read(tmp_path / "OUTCAR")
    assert [frame.index for frame in frames] == [3, 5]


# compression, folders, patterns


@pytest.mark.parametrize("suffix", PACK)
def test_compressed_files_of_every_kind_are_read(tmp_path, images, text, suffix):
    pack = PACK[suffix]
    (tmp_path / f"a.extxyz{suffix}").write_bytes(pack(text.encode()))
    same(read(tmp_path / f"a.extxyz{suffix}"), images)
    (tmp_path / "plain.extxyz").unlink()
    same(read(tmp_path), images)
    same(read(tmp_path / "*.extxyz*"), images)
    with Trajectory(tmp_path / "a.traj", "w") as file:
        for atoms in images:
            file.write(atoms)
    (tmp_path / f"a.traj{suffix}").write_bytes(pack((tmp_path / "a.traj").read_bytes()))
    energies = [frame.labels.energy.item() for frame in read(tmp_path / f"a.traj{suffix}")]
    assert energies == [atoms.info["REF_energy"] for atoms in images]
    ase.io.write(tmp_path / "POSCAR", images[0])
    ase.io.write(tmp_path / "a.cif", images[0])
    for name in ("POSCAR", "a.cif"):
        (tmp_path / f"{name}{suffix}").write_bytes(pack((tmp_path / name).read_bytes()))
        atoms = read_structure(str(tmp_path / f"{name}{suffix}"))
        assert atoms.get_volume() == pytest.approx(images[0].get_volume())
    content = lzma.decompress((CASES / "vasprun_unconverged.xml.xz").read_bytes())
    (tmp_path / f"vasprun.xml{suffix}").write_bytes(pack(content))
    assert len(read(tmp_path / f"vasprun.xml{suffix}", labelled=False)) == 6


@pytest.mark.parametrize("suffix", PACK)
def test_a_damaged_archive_is_named(tmp_path, text, suffix):
    (tmp_path / f"a.extxyz{suffix}").write_bytes(PACK[suffix](text.encode())[:-40])
    assert f"a.extxyz{suffix}" in problem(tmp_path / f"a.extxyz{suffix}")
    (tmp_path / f"a.extxyz{suffix}").write_bytes(b"no archive at all")
    assert f"a.extxyz{suffix}" in problem(tmp_path / f"a.extxyz{suffix}")


def test_a_share_in_the_place_of_a_file_is_told():
    for share in ("0.2", ".1", "10%", "20"):
        with pytest.raises(InputError, match=r"got a number.*--data\.split"):
            expand([share])


def test_brackets_in_names_are_read_as_such(tmp_path, text, images):
    (tmp_path / "run[1]").mkdir()
    for name in ("run[1]/a.extxyz", "b[2].extxyz"):
        (tmp_path / name).write_text(text)
    for pattern in ("b[2].extxyz", "b[2]*", "run[1]/*.extxyz", "run[1]", "run[1]/a.extxyz"):
        same(read(tmp_path / pattern), images)


# disorder


def test_a_disordered_cif_is_refused_with_its_sites_by_every_reader(tmp_path):
    words = r"5 sites of partial or mixed occupancy .*S 0\.6 P 0\.4 at 0\.500 0\.000 0\.500.*Li 0\.5"
    with pytest.raises(InputError, match=words):
        read_structure(str(CASES / "disordered.cif"))
    with pytest.raises(InputError, match=words):
        read(CASES / "disordered.cif", labelled=False)
    ase.io.write(tmp_path / "from_cif.traj", ase.io.read(CASES / "disordered.cif"))
    with pytest.raises(InputError, match="6 sites of partial or mixed occupancy"):
        read_structure(str(tmp_path / "from_cif.traj"))


def test_comparisons_and_samplers_refuse_a_disordered_cif():
    from finetune.comparison.observable import starts
    from finetune.sampling import Files
    from finetune.sampling.core import Context

    with pytest.raises(InputError, match="partial or mixed occupancy"):
        starts([str(CASES / "disordered.cif")])
    files = Files(CASES, ("disordered.cif",))
    with pytest.raises(InputError, match="partial or mixed occupancy"):
        list(files.frames([], Context(np.random.default_rng(0))))


def test_an_ordered_crystal_has_the_composition_of_the_disordered_one(tmp_path):
    from finetune.sampling import Crystals, Files
    from finetune.sampling.core import Context

    context = Context(np.random.default_rng(0))
    shutil.copy(CASES / "disordered.cif", tmp_path / "a.cif")
    (atoms,) = Files(tmp_path, ("a.cif",), order=True).frames([], context)
    counts = atoms.symbols.formula.count()
    assert {symbol: 5 * n / counts["P"] * 0.08 for symbol, n in counts.items()} == pytest.approx(
        {"Li": 6.0, "S": 3.6, "P": 0.4}
    )
    assert atoms.get_volume() / len(atoms) == pytest.approx(5.72**3 / 10)
    with pytest.raises(InputError, match="no ordered crystal"):
        next(Crystals(tmp_path, max_atoms=60).frames([], context))
    assert len(next(Crystals(tmp_path, max_atoms=60, order=True).frames([], context))) == len(atoms)
    with pytest.raises(InputError, match="no supercell of at most 20 atoms"):
        list(Files(tmp_path, ("a.cif",), order=True, max_atoms=20).frames([], context))


def test_structures_of_any_format_can_be_labelled_and_predicted(tmp_path):
    crystal = bulk("Li", cubic=True)
    for name in ("POSCAR", "li.cif", "li.xsf", "CONTCAR"):
        ase.io.write(tmp_path / name, crystal)
        (frame,) = read(tmp_path / name, labelled=False)
        assert frame.atoms.get_volume() == pytest.approx(crystal.get_volume())
