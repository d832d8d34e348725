"""`finetune doctor` lets the shipped data through and finds every fault that is planted in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import ase.io
import matplotlib.image
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.units import GPa, kcal, mol

from finetune.data.labels import LabelKeys
from finetune.data.reading import read
from finetune.doctor import Examination, Finding, examine
from finetune.doctor.coverage import coverage, covered, formula, temperature_K

from .commands import command

LARGEST = 20  # atoms; 28 frames of all families have as many or fewer
FEWER = 16
PARTS = ("train", "valid", "test")
OTHER_CODE = {"Li": 0.8, "P": -1.1, "S": 1.4}  # eV, an energy zero as pseudopotentials of another code have it
Files = dict[str, list[Atoms]]


def small(root: Path, largest: int = FEWER) -> Files:
    frames = {part: ase.io.read(root / f"data/starting/{part}.extxyz", ":") for part in PARTS}
    return {part: [atoms for atoms in images if len(atoms) <= largest] for part, images in frames.items()}


def write(files: Files, directory: Path) -> Path:
    for part, images in files.items():
        ase.io.write(directory / f"{part}.extxyz", images, format="extxyz")
    return directory


def everywhere(change: Callable[[Atoms], None]) -> Callable[[Files], None]:
    return lambda files: [change(atoms) for images in files.values() for atoms in images] and None


def energies_per_atom(atoms: Atoms) -> None:
    atoms.info["REF_energy"] /= len(atoms)


def in_kcal(atoms: Atoms) -> None:
    atoms.info["REF_energy"] /= kcal / mol
    atoms.arrays["REF_forces"] /= kcal / mol


def stress_times(factor: float) -> Callable[[Atoms], None]:
    def change(atoms: Atoms) -> None:
        atoms.info["REF_stress"] = factor * np.asarray(atoms.info["REF_stress"])

    return change


def shuffle_forces(atoms: Atoms) -> None:
    order = np.random.default_rng(len(atoms)).permutation(len(atoms))
    atoms.arrays["REF_forces"] = atoms.arrays["REF_forces"][order]


def another_energy_zero(files: Files) -> None:
    for atoms in files["train"][::2]:
        atoms.info["REF_energy"] += sum(OTHER_CODE[symbol] for symbol in atoms.symbols)


def another_method(files: Files) -> None:
    for part, images in files.items():
        for atoms in images:
            atoms.info["label_method"] = "0123456789ab" if part == "train" else "ba9876543210"


def trajectory_in_both(files: Files) -> None:
    group = files["train"][0].info["group"]
    files["test"] += [atoms.copy() for atoms in files["train"] if atoms.info["group"] == group]


def trajectory_divided(files: Files) -> None:
    groups = [atoms.info["group"] for atoms in files["train"]]
    files["test"].append(files["train"].pop(next(k for k, group in enumerate(groups) if groups.count(group) > 1)))


def one_composition(files: Files) -> None:
    for part, images in files.items():
        files[part] = [atoms for atoms in images if atoms.get_chemical_formula() == "Li12S6"]
    files["test"] = files.pop("valid") + files["test"]
    files["train"], files["test"] = files["train"][:-1], files["train"][-1:]


PLANTED = {
    "flipped stress": (everywhere(stress_times(-1.0)), "stress of all", "with the opposite sign"),
    "stress in GPa": (everywhere(stress_times(1 / GPa)), "stress of all", "look like GPa"),
    "energies in eV per atom": (everywhere(energies_per_atom), "energy of ", "better as eV/atom"),
    "kcal/mol": (everywhere(in_kcal), "forces of all", "look like kcal/mol"),
    "shuffled forces": (everywhere(shuffle_forces), "forces of all", "nothing to do with the structures"),
    "two energy zeros": (another_energy_zero, "two sets of energies per element", "other DFT settings"),
    "two methods": (another_method, "2 DFT settings are mixed", "label all frames with one method"),
    "trajectory twice": (trajectory_in_both, "structures:", "drop them from one"),
    "trajectory divided": (trajectory_divided, "share 1 groups", "into one part"),
    "one composition": (one_composition, "all frames have the one composition Li2S", "add a few frames"),
}


NEED_A_MODEL = list(PLANTED)[:6]


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_and_training_advised_against(
    fault: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant, seen, remedy = PLANTED[fault]
    files = small(root, LARGEST)
    plant(files)
    assert command("doctor", write(files, tmp_path), "--model", "chgnet" if fault in NEED_A_MODEL else "none") == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "training should not go on" in text
    assert seen in text
    assert remedy in text


def test_the_shipped_data_are_let_through(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("doctor", root / "data/interface", "--output", tmp_path) == 0
    text = capsys.readouterr().out
    assert "training can go on" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith(str(tmp_path))) <= 100
    content = json.loads((tmp_path / "doctor.json").read_text())
    assert content["sound"]
    assert {finding["verdict"] for finding in content["findings"]} <= {"good", "warning", "skipped"}
    assert all(finding["remedy"] for finding in content["findings"] if finding["verdict"] == "warning")
    assert sum(content["compositions"].values()) == sum(content["files"].values()) == 254
    assert content["closest_A"]["P-S"] == pytest.approx(1.81, abs=0.01)
    for name in ("distances.png", "forces.png", "energies.png"):
        picture = matplotlib.image.imread(tmp_path / name)[..., :3]
        assert picture.shape[1] > 800
        assert (picture.max(axis=2) - picture.min(axis=2) > 0.3).sum() > 500  # something is drawn in colour


def test_labels_under_other_names_are_found_without_a_model(root: Path, tmp_path: Path) -> None:
    files = small(root)
    for atoms in (atoms for images in files.values() for atoms in images):
        atoms.info["dft_energy"] = atoms.info.pop("REF_energy")
    directory = write(files, tmp_path)
    assert command("doctor", directory, "--keys.energy", "dft_energy", "--model", "none") == 0
    found = examine(read(directory, LabelKeys(energy="dft_energy")), LabelKeys(energy="dft_energy"))
    assert verdicts(found, "energy labels") == ["good"]
    assert "dft_energy" in named(found, "energy labels")[0].words


def test_mistakes_end_in_one_line(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.extxyz").write_text("7\nnothing\n")
    good = root / "data/starting/valid.extxyz"
    for arguments, words in (
        ([tmp_path / "missing.extxyz"], "no such file"),
        ([tmp_path / "broken.extxyz"], "cannot read"),
        ([good, "--keys.energy", "dft_energy"], "has the energy key 'dft_energy'"),
        ([good, "--limit", "0"], "--limit 0 must be at least 1"),
        ([good, "--model", "none", "--output", tmp_path / "broken.extxyz"], "cannot write"),
    ):
        assert command("doctor", *arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert words in error


def test_structures_are_looked_at_before_they_are_labelled(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = [str(root / f"data/campaign/structures/{name}.extxyz") for name in ("crystals", "interfaces")]
    arguments = ["doctor", *files, "--labels", "false", "--model", "none"]
    assert command(*arguments, "--output", str(tmp_path)) == 0
    told = capsys.readouterr().out
    assert "0 faults" in told
    assert "labelling can go on" in told
    assert {path.name for path in tmp_path.iterdir()} == {"doctor.json", "distances.png"}
    frames = ase.io.read(files[0], ":")
    frames[0].positions[1] = frames[0].positions[0] + 0.1
    ase.io.write(tmp_path / "on_top.extxyz", frames)
    ase.io.write(tmp_path / "again.extxyz", frames[1:9])
    both = [str(tmp_path / name) for name in ("on_top.extxyz", "again.extxyz")]
    assert command("doctor", *both, "--labels", "false", "--model", "none") == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "labelling should not go on" in told
    assert "1 of 80 frames cannot be used" in told
    assert "share 8 structures" in told
    assert command("doctor", files[0], "--model", "none") == 1
    assert "looked at by --labels false" in capsys.readouterr().err


def test_unusable_frames_are_named_and_the_others_looked_at(root: Path) -> None:
    frames = read(root / "data/starting/valid.extxyz")
    frames[2].atoms.positions[1] = frames[2].atoms.positions[0]
    found = examine(frames, LabelKeys())
    assert verdicts(found, "frames") == ["fault"]
    assert "frame 2 of" in named(found, "frames")[0].words
    assert len(found.frames) == len(frames) - 1


def test_a_frame_that_sticks_out_is_named(root: Path) -> None:
    frames = read([root / "data/starting/train.extxyz", root / "data/starting/valid.extxyz"])
    frames[5].labels.forces[3] *= 1e4
    frames[6].labels.stress[0] += 2.0 * torch.eye(3)
    found = examine(frames, LabelKeys())
    for check, frame in (("outliers: force", 5), ("outliers: pressure", 6)):
        assert verdicts(found, check) == ["warning"]
        assert named(found, check)[0].words.startswith(f"1 frames stick out: frame {frame} of")


def test_undetermined_elements_are_a_warning_while_some_compositions_differ(root: Path) -> None:
    formulas = ("Li2S", "Li3PS4")
    found = examine([f for f in read(root / "data/starting") if formula(f) in formulas], LabelKeys())
    assert verdicts(found, "compositions") == ["warning"]
    assert "not determined" in named(found, "compositions")[0].words


@pytest.mark.parametrize(
    ("info", "temperature"),
    [
        ({"temperature_K": 450}, 450.0),
        ({"made_by": "amorphous Li2P_1500K_320fs"}, 1500.0),
        ({"made_by": "snapshot of MD at 700 K"}, 700.0),
        ({"made_by": "crystal K2S"}, None),
        ({"made_by": "Packed > MeltQuench(1121 K to 300 K in 120 steps) step 60"}, None),  # nobody knows where
        ({"made_by": "Packed > MeltQuench(1121 K to 300 K in 120 steps) > Densified(480 K, 0 GPa)"}, 480.0),
        ({"made_by": "crystal Li"}, None),
        ({}, None),
    ],
)
def test_temperatures_are_read_from_info(info: dict[str, object], temperature: float | None, root: Path) -> None:
    frame = read(root / "data/starting/valid.extxyz")[0]
    frame.atoms.info = info
    assert temperature_K(frame) == temperature


def test_many_temperatures_are_told_in_bins(root: Path) -> None:
    frames = read(root / "data/starting/valid.extxyz")
    for count, told in ((2, "300 K 4, 305 K 4; 0 frames"), (8, "300 to 400 K 8; 0 frames")):
        for k, frame in enumerate(frames):
            frame.atoms.info = {"temperature_K": 300 + 5 * (k % count)}
        assert told in " ".join(finding.words for finding in covered(frames, coverage(frames)))
    spread = {**{40.0 + 97 * k: 1 for k in range(8)}, 1500.0: 3, 3.0: 1}
    words = " ".join(f.words for f in covered(frames, replace(coverage(frames), temperatures=spread)))
    assert "0 to 300 K 4, 300 to 600 K 3, 600 to 900 K 2, 1500 to 1800 K 3" in words


def named(found: Examination, check: str) -> list[Finding]:
    return [finding for finding in found.findings if finding.check == check]


def verdicts(found: Examination, check: str) -> Sequence[str]:
    return [finding.verdict for finding in named(found, check)]


def test_pair_curves_are_no_fault_because_two_atoms_have_no_direction_of_their_own(tmp_path):
    def morse(r: float) -> tuple[float, float]:
        x = np.exp(-1.2 * (r - 2.4))
        return 1.5 * (x * x - 2 * x), 1.5 * 1.2 * 2 * (x * x - x)

    pairs = []
    for symbols in ("LiS", "P2", "Li2"):
        for r in np.linspace(1.8, 6.0, 14):
            energy, force = morse(r)
            pair = Atoms(symbols, [[0, 0, 0], [r, 0, 0]], cell=[14, 14, 14], pbc=True)
            pair.info.update(REF_energy=energy, family="dimer", group=f"dimer:{symbols}")
            pair.arrays["REF_forces"] = np.array([[-force, 0, 0], [force, 0, 0]])
            pairs.append(pair)
    ase.io.write(tmp_path / "pairs.extxyz", pairs, format="extxyz")
    command("doctor", tmp_path / "pairs.extxyz", "--output", tmp_path)
    found = json.loads((tmp_path / "doctor.json").read_text())["findings"]
    assert found
    assert not [finding for finding in found if finding["verdict"] == "fault" and "forces" in finding["check"]], found
