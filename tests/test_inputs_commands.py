"""What commands do with the inputs that people have."""

from __future__ import annotations

import re
import warnings

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.md.velocitydistribution import thermalize_momenta
from ase.neighborlist import neighbor_list

from finetune import models
from finetune.backbones.ace import ACE
from finetune.calculators import PotentialCalculator
from finetune.data.structures import read_structure
from finetune.errors import InputError
from finetune.exporting import lammps_input
from finetune.md import NPT, NVE, Langevin, Stage, simulate
from finetune.md.velocities import UNITS, set_velocities

from .commands import THEIR_WARNINGS, command, fit_arguments, labelled, write_parts
from .structures import ROOT, lithium, sulphide
from .test_inputs import CASES

LJ = {"sigma": 2.2, "epsilon": 0.02, "rc": 6.0}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model of random weights as a file."""
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    models.save(ACE.tiny().eval(), path)
    return path


# evaluate, fit


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda atoms: atoms.info.update(REF_energy=1e300), r"energy of 1e\+300"),
        (lambda atoms: atoms.positions.__setitem__(0, [0, 0, 1e12]), r"1e\+12 Å"),
        (lambda atoms: atoms.info.update(REF_energy=True), "is not a number"),
    ],
)
def test_evaluate_ends_with_an_error_where_nothing_can_be_compared(tmp_path, tiny, capsys, change, words):
    frames = labelled("train")
    change(frames[0])
    ase.io.write(tmp_path / "a.extxyz", frames, format="extxyz")
    assert command("evaluate", tiny, tmp_path / "a.extxyz") == 1
    assert re.search(words, capsys.readouterr().err)


def test_evaluate_ends_with_an_error_where_no_label_is_read(tmp_path, tiny, capsys):
    frames = labelled("train")
    for atoms in frames:
        atoms.arrays["REF_magmoms"] = np.zeros(len(atoms))
        atoms.arrays["push"] = atoms.arrays.pop("REF_forces")
        del atoms.info["REF_energy"], atoms.info["REF_stress"]
    ase.io.write(tmp_path / "a.extxyz", frames, format="extxyz")
    assert command("evaluate", tiny, tmp_path / "a.extxyz") == 1
    assert "no labels" in capsys.readouterr().err


def test_evaluate_reads_virials_and_no_moments_by_options(tmp_path, tiny):
    frames = labelled("train")
    ase.io.write(tmp_path / "stress.extxyz", frames, format="extxyz")
    for atoms in frames:
        atoms.info["virial"] = -ase.stress.voigt_6_to_full_3x3_stress(atoms.info.pop("REF_stress")) * atoms.get_volume()
        atoms.arrays["REF_magmoms"] = np.zeros((len(atoms), 3))
    ase.io.write(tmp_path / "virials.extxyz", frames, format="extxyz")
    more = ["--keys.virials", "virial", "--keys.magmoms", "null"]
    for name, options in (("stress", []), ("virials", more)):
        arguments = ["evaluate", tiny, tmp_path / f"{name}.extxyz", *options, "--json", tmp_path / f"{name}.json"]
        assert command(*arguments) == 0
    assert (tmp_path / "stress.json").read_text() == (tmp_path / "virials.json").read_text()


@THEIR_WARNINGS
def test_a_fit_says_what_it_does_not_read(tmp_path):
    files = write_parts(tmp_path)
    frames = labelled("train")
    for atoms in frames:
        atoms.info["TotEnergy"] = atoms.info.pop("REF_energy")
        atoms.info["virials"] = -atoms.info.pop("REF_stress") * atoms.get_volume()
    ase.io.write(files["train"], frames, format="extxyz")
    more = ["--data.valid", str(files["train"]), "--trainer.max_epochs", "1", "--data.units", "false"]
    with pytest.warns(UserWarning, match=r"--data\.keys\.energy TotEnergy") as told:
        command(*fit_arguments(files, tmp_path / "run", *more))
    assert any("--data.keys.virials virials" in str(warning.message) for warning in told)


@THEIR_WARNINGS
def test_a_share_in_the_place_of_validation_files_is_told(tmp_path, capsys):
    files = write_parts(tmp_path)
    assert command(*fit_arguments(files, tmp_path / "run", "--data.valid", "0.2")) == 1
    assert "--data.split" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["disordered.cif", "vasprun_run.xml.xz"])
def test_every_command_refuses_what_is_no_structure_or_label_in_a_line(tmp_path, tiny, capsys, name):
    words = "partial or mixed occupancy" if name.endswith("cif") else "machine-learned force field"
    config = tmp_path / "md.yaml"
    config.write_text("stages: [{ensemble: {class_path: finetune.md.Langevin}, ps: 0.01}]\n")
    file = CASES / name
    for arguments in (
        ["md", "-c", config, "--structure", file, "--calculator", tiny, "--directory", tmp_path / "md"],
        ["export", tiny, "--format", "yace", "--output", tmp_path / "a.yace", "--structure", file],
        ["label", file, "--labeller", "finetune.labelling.VaspFolders", "--output", tmp_path / "a.extxyz"],
        ["doctor", file, "--model", "none", "--labels", "false"],
    ):
        assert command(*arguments) == 1
        message = capsys.readouterr().err
        assert words in message
        assert "Traceback" not in message


# dynamics


def moving():
    """Lithium with velocities of 500 K."""
    atoms = lithium().repeat(2)
    thermalize_momenta(atoms, 500, rng=np.random.default_rng(3))
    return atoms


@pytest.mark.parametrize("name", ["velocities", "vel", "velo", "Velocity", "vx vy vz"])
@pytest.mark.parametrize("unit", UNITS)
def test_velocities_are_read_in_the_unit_that_is_given(tmp_path, name, unit):
    atoms = moving()
    momenta, velocities = atoms.get_momenta(), atoms.get_velocities()
    per_fs = velocities * units.fs  # Å/fs
    known = {"ase": velocities, "A/fs": per_fs, "A/ps": 1e3 * per_fs, "nm/ps": 100 * per_fs, "m/s": 1e5 * per_fs}
    known["bohr/atomic"] = per_fs * 0.024188843 / 0.529177211
    del atoms.arrays["momenta"]
    for k, column in enumerate(name.split()):
        atoms.arrays[column] = known[unit][:, k] if " " in name else known[unit]
    ase.io.write(tmp_path / "a.extxyz", atoms, format="extxyz")
    read = read_structure(str(tmp_path / "a.extxyz"))
    set_velocities(read, unit)
    np.testing.assert_allclose(read.get_momenta(), momenta, rtol=1e-4, atol=1e-4)


def test_velocities_that_are_not_read_are_told_when_momenta_are_drawn(tmp_path):
    atoms = moving()
    atoms.arrays["vel"] = atoms.get_velocities()
    stages = [Stage(Langevin(temperature_K=300.0), 0.002)]
    atoms.calc = LennardJones(**LJ)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulate(atoms, stages, tmp_path / "momenta", [], progress=False)
    bare = moving()
    bare.arrays["vel"] = bare.get_velocities()
    del bare.arrays["momenta"]
    bare.calc = LennardJones(**LJ)
    with pytest.warns(UserWarning, match=r"vel of the structure are not read.*--velocities"):
        simulate(bare, stages, tmp_path / "vel", [], progress=False)


def test_velocities_of_a_poscar_and_of_momenta_begin_the_same_dynamics(tmp_path):
    atoms = moving()
    ase.io.write(tmp_path / "POSCAR", atoms, format="vasp")
    ase.io.write(tmp_path / "a.extxyz", atoms, format="extxyz")
    for name in ("POSCAR", "a.extxyz"):
        assert read_structure(str(tmp_path / name)).get_temperature() == pytest.approx(atoms.get_temperature(), 1e-4)


@pytest.mark.parametrize("unit", ["km/h", "ase"])
def test_a_unit_without_velocities_or_of_no_known_name_is_told(unit):
    with pytest.raises(InputError, match=r"velocities: got"):
        set_velocities(lithium(), unit)


def test_fixed_atoms_stay_in_langevin_dynamics_and_npt_refuses_them(tmp_path):
    atoms = read_structure(str(CASES / "POSCAR_fix"))
    assert isinstance(atoms.constraints[0], FixAtoms)
    before = atoms.positions.copy()
    atoms.calc = LennardJones(**LJ)
    simulate(atoms, [Stage(Langevin(temperature_K=300.0), 0.02)], tmp_path / "run", [], progress=False)
    moved = np.linalg.norm(atoms.positions - before, axis=1) > 1e-6
    assert moved.tolist() == [False] * 4 + [True] * 12
    with pytest.raises(InputError, match="does not go with fixed atoms; use Langevin"):
        simulate(atoms, [Stage(NPT(temperature_K=300.0), 0.02)], tmp_path / "npt", [], progress=False)


def test_a_structure_of_dynamics_keeps_the_mass_of_deuterium(tmp_path):
    atoms = read_structure(str(CASES / "LiD.cif")).repeat(2)
    atoms.calc = LennardJones(**LJ)
    thermalize_momenta(atoms, 200, rng=np.random.default_rng(0))
    simulate(atoms, [Stage(NVE(), 0.002)], tmp_path, [], progress=False)
    written = ase.io.read(tmp_path / "final.extxyz")
    assert written.get_masses()[written.symbols == "H"] == pytest.approx(2.014, abs=1e-3)


# LAMMPS


def tilted(pbc):
    """Li2S with oblique lattice vectors, some atoms outside of the cell."""
    atoms = sulphide().repeat((2, 2, 2))
    atoms.pbc = pbc
    atoms.positions -= 0.4 * atoms.cell.array.sum(axis=0)
    return atoms


def skewed():
    """The same crystal in a cell whose tilt is more than half of a box length."""
    atoms = sulphide()
    a, b, c = atoms.cell.array
    return Atoms(atoms.numbers, atoms.positions, cell=[a, b + 4 * a, c + 2 * a - 3 * b], pbc=True)


BOXES = {"skewed": skewed, "inside": lambda: lithium().repeat(2)}
for name in ("TTF", "TFT", "FTT", "TFF", "FTF", "FFT", "FFF"):
    BOXES[name] = lambda name=name: tilted([letter == "T" for letter in name])


@pytest.mark.parametrize("name", BOXES)
def test_lammps_gets_the_same_structure_in_a_box_that_it_reads(tmp_path, name):
    atoms = BOXES[name]()
    lammps_input(tmp_path / "a.yace", ["Li", "S"], "pace", "* * a.yace Li S", "test", atoms)
    text = (tmp_path / "a.data").read_text()
    bounds = np.array([line.split()[:2] for line in text.splitlines() if line.endswith("hi")], dtype=float)
    tilts = next((line.split()[:3] for line in text.splitlines() if line.endswith("xy xz yz")), ["0"] * 3)
    xy, xz, yz = map(float, tilts)
    rows = text.split("Atoms # atomic")[1].split("\n\n")[1].splitlines()
    positions = np.array([line.split()[2:5] for line in rows], dtype=float)
    lengths = bounds[:, 1] - bounds[:, 0]
    cell = np.array([[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]])
    for tilt, axis in ((xy, 0), (xz, 0), (yz, 1)):
        assert abs(tilt) <= 0.5 * lengths[axis]
    if not atoms.pbc[2]:
        assert xz == pytest.approx(0, abs=1e-9)
        assert yz == pytest.approx(0, abs=1e-9)
    if not atoms.pbc[1]:
        assert xy == pytest.approx(0, abs=1e-9)
    fractions = positions @ np.linalg.inv(cell)
    assert (fractions > -1e-9).all()
    assert (fractions < 1).all()
    written = Atoms(atoms.numbers, positions, cell=cell, pbc=atoms.pbc)
    for pair in ({"Li"}, {"S"}, {"Li", "S"}):  # distances of each kind, images counted
        found = []
        for one in (atoms, written):
            i, j, distances = neighbor_list("ijd", one, 6.0)
            chosen = [{one.symbols[k], one.symbols[m]} == pair for k, m in zip(i, j, strict=True)]
            found.append(np.sort(distances[np.array(chosen, dtype=bool)]))
        np.testing.assert_allclose(*found, atol=1e-8)


def test_the_slabs_of_the_shipped_data_are_exported_as_they_are(tmp_path):
    atoms = ase.io.read(ROOT / "data/structures/materials_project/Li2S_mp-1153-r2SCAN.cif")
    lammps_input(tmp_path / "a.yace", ["Li", "S"], "pace", "* * a.yace Li S", "test", atoms)
    text = (tmp_path / "a.data").read_text()
    assert len(text.split("Atoms # atomic")[1].split("\n\n")[1].splitlines()) == len(atoms)


@pytest.mark.parametrize("pbc", ["TTT", "TTF", "TFF", "FFF"])
def test_stress_is_the_strain_derivative_of_the_energy_in_open_directions_too(pbc):
    atoms = tilted([letter == "T" for letter in pbc])
    atoms.calc = PotentialCalculator(ACE.tiny().eval(), "cpu", "float64")
    stress, step = atoms.get_stress(voigt=False), 1e-4
    for i, j in ((0, 0), (2, 2), (0, 2), (1, 2)):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            strained.calc = atoms.calc
            energies.append(strained.get_potential_energy())
        derivative = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
        assert stress[i, j] == pytest.approx(derivative, abs=1e-6)
