"""Isolated atoms of a data set are named, stay out of fits and tables, and serve as atom energies."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols, reference_states

from finetune.comparison import Energies, Labels, compare
from finetune.data.frames import Frame
from finetune.data.module import FrameData
from finetune.data.reading import read
from finetune.doctor.contents import isolated
from finetune.errors import InputError

from .commands import CONFIGS, THEIR_WARNINGS, command, write_parts

pytestmark = THEIR_WARNINGS

FAR_OFF = -500.0  # eV, energy of an isolated atom with a zero of its own


def atom(symbol: str, **info: str) -> Atoms:
    return Atoms(symbol, info={"REF_energy": FAR_OFF, **info})


@pytest.fixture
def mixed(tmp_path):
    """Real frames, and an isolated atom of each element in the training and the validation file."""
    files = write_parts(tmp_path)
    atoms = [atom("Li", config_type="IsolatedAtom"), atom("P", config_type="isolated_atom"), atom("S")]
    for part in ("train", "valid"):
        ase.io.write(tmp_path / f"{part}-mixed.extxyz", [*atoms, *ase.io.read(files[part], ":")], format="extxyz")
    return files | {f"{part}-mixed": tmp_path / f"{part}-mixed.extxyz" for part in ("train", "valid")}


@pytest.mark.parametrize("word", ["IsolatedAtom", "isolated_atom", "Isolated atom", "isolated-atom", "ISOLATED_ATOMS"])
def test_a_single_atom_is_isolated_by_every_spelling_of_its_config_type(word):
    primitive = bulk("Li", "bcc", a=3.4)
    primitive.info["config_type"] = word
    assert Frame(primitive, {}, "f", 0, "f", "g").isolated


@pytest.mark.parametrize(
    ("cell", "pbc", "expected"),
    [
        (None, False, True),
        ([20, 20, 20], False, True),
        ([20, 20, 20], True, True),
        ([12, 12.1, 12.2], True, True),
        ([3.4, 3.4, 3.4], True, False),
        ([20, 20, 3.4], True, False),  # a chain
        ([3.4, 3.4, 0], (True, True, False), False),  # a layer
        ([20, 20, 0], (True, True, False), True),
        ([[20, 0, 0], [17, 1, 0], [0, 0, 20]], True, False),  # long vectors, images 3.2 Å apart
    ],
)
def test_a_single_atom_is_isolated_where_its_images_are_far_away(cell, pbc, expected):
    assert Frame(Atoms("Li", cell=cell, pbc=pbc), {}, "f", 0, "f", "g").isolated is expected


@pytest.mark.parametrize(
    ("symbol", "box", "expected"),
    [
        *(("Li", 8.0, True), ("Li", 6.0, True), ("S", 5.5, True), ("H", 5.1, True), ("Cs", 8.1, True)),
        *(("Cs", 7.0, False), ("Li", 4.0, False), ("S", 4.0, False)),
    ],
)
def test_a_box_beyond_any_bond_of_the_element_isolates_an_atom(symbol, box, expected):
    assert Frame(Atoms(symbol, cell=[box, box, box], pbc=True), {}, "f", 0, "f", "g").isolated is expected


def test_no_elemental_crystal_is_isolated_even_stretched_by_a_tenth():
    for number, state in enumerate(reference_states):
        if state is None or state["symmetry"] not in ("fcc", "bcc", "sc") or "a" not in state:
            continue
        atoms = bulk(chemical_symbols[number], state["symmetry"], a=1.1 * state["a"])
        frame = Frame(atoms, {}, "f", 0, "f", "g")
        assert not frame.isolated, atoms
        assert not frame.perhaps_isolated or state["a"] > 5.5, atoms  # noble gases and heavy alkali metals


def test_doctor_warns_of_an_atom_in_a_box_that_may_be_that_of_a_free_atom():
    frames = [Frame(Atoms("Cs", cell=[box] * 3, pbc=True), {}, "f.xyz", k, "f", "g") for k, box in enumerate((6, 8))]
    (finding,) = isolated([], frames)
    assert finding.verdict == "warning"
    assert "1 cells of one atom" in finding.words
    assert "frame 1 of f.xyz, Cs 8.0 Å apart" in finding.words
    assert "config_type=IsolatedAtom" in finding.remedy


def test_several_atoms_are_never_isolated():
    pair = Atoms("Li2", [(0, 0, 0), (3, 0, 0)], info={"config_type": "IsolatedAtom"})
    assert not Frame(pair, {}, "f", 0, "f", "g").isolated


def test_isolated_atoms_enter_no_part_of_a_fit(mixed, tmp_path, caplog, capfd):
    with_atoms, without = (FrameData(str(mixed[f"train{end}"]), str(mixed[f"valid{end}"])) for end in ("-mixed", ""))
    for part in ("train", "valid"):
        hashes = [[frame.structure_hash for frame in data.frames(part)] for data in (with_atoms, without)]
        assert hashes[0] == hashes[1]
    own = FrameData(str(mixed["train-mixed"]), split=(0.5, 0.5, 0.0))
    assert not any(frame.isolated for part in ("train", "valid") for frame in own.frames(part))


def test_a_fit_with_isolated_atoms_equals_one_without_and_names_them(mixed, tmp_path, caplog, capfd):
    text = {}
    for end in ("-mixed", ""):
        data = [f"--data.{part}={mixed[f'{part}{end}']}" for part in ("train", "valid")]
        more = ("--trainer.max_epochs", "1", "--trainer.default_root_dir", tmp_path / f"run{end}")
        assert command("fit", *CONFIGS, *data, *more) == 0
        text[end] = capfd.readouterr().err + caplog.text
        caplog.clear()
    after = [json.loads((tmp_path / f"run{end}" / "after.json").read_text())["valid"]["all"] for end in ("-mixed", "")]
    assert after[0] == after[1]
    assert "3 isolated atoms (Li, P, S) in" in text["-mixed"]
    assert "isolated" not in text[""]


def test_evaluate_leaves_isolated_atoms_out_of_the_table_and_says_so(mixed, tmp_path, capfd):
    for end in ("-mixed", ""):
        assert command("evaluate", "chgnet", mixed[f"valid{end}"], "--json", tmp_path / f"errors{end}.json") == 0
    one, two = (json.loads((tmp_path / f"errors{end}.json").read_text()) for end in ("-mixed", ""))
    assert one["all"] == two["all"]
    assert "3 isolated atoms (Li, P, S) in" in capfd.readouterr().out


def test_doctor_names_isolated_atoms_and_compares_the_other_frames(mixed, capfd):
    assert command("doctor", mixed["train-mixed"]) == command("doctor", mixed["train"])
    said = " ".join(capfd.readouterr().out.split())
    assert "3 isolated atoms (Li, P, S)" in said


def test_a_file_of_isolated_atoms_alone_is_refused_in_one_line(tmp_path):
    ase.io.write(tmp_path / "atoms.extxyz", [atom("Li"), atom("S")], format="extxyz")
    with pytest.raises(InputError, match=r"2 isolated atoms .*no other frame is there"):
        FrameData(str(tmp_path / "atoms.extxyz")).frames("train")


def test_isolated_atoms_of_any_spelling_give_cohesive_energies(tmp_path):
    frames = []
    for a in np.linspace(3.2, 3.7, 6):
        crystal = bulk("Li", "bcc", a=a, cubic=True)
        crystal.info |= {"REF_energy": 2 * (-1.9 + (a - 3.45) ** 2), "group": "Li"}
        frames.append(crystal)
    frames.append(Atoms("Li", info={"REF_energy": -0.3, "config_type": "IsolatedAtom"}))
    ase.io.write(tmp_path / "li.extxyz", frames, format="extxyz")
    path = str(tmp_path / "li.extxyz")
    assert [frame.isolated for frame in read(path, labelled=False)] == [False] * 6 + [True]
    found = compare({"DFT": Labels([path])}, [Energies(files=[path])], tmp_path / "c", progress=False)
    [result] = found.results.values()
    cohesive = next(figure for figure in result.measured.figures if figure.kind == "cohesive energy")
    assert cohesive.value == pytest.approx(1600.0, abs=5.0)  # -0.3 + 1.9 eV
