"""A structure that a model was fitted to is recognised after other programs have written it; others are not."""

from __future__ import annotations

import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule

from finetune import models
from finetune.backbones.chgnet import CHGNet
from finetune.data.frames import Frame, fitted_to
from finetune.data.reading import read
from finetune.data.splitting import check_disjoint
from finetune.doctor.structures import leaks
from finetune.errors import InputError
from finetune.provenance import overlap, overlap_message

from .commands import THEIR_WARNINGS, command

pytestmark = THEIR_WARNINGS


def frame(atoms: Atoms, source: str = "other.extxyz", index: int = 0) -> Frame:
    return Frame(atoms, {}, source, index, "a", f"{source}{index}")


def crystal(rng: np.random.Generator, size: int = 2, scale: float = 0.08) -> Atoms:
    """Rattled rock salt of Li and S with a sheared cell."""
    atoms = bulk("LiS", "rocksalt", a=5.2, cubic=True) * (size, size, 1)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.normal(scale=0.02, size=(3, 3))), scale_atoms=True)
    atoms.rattle(scale, rng=rng)
    return atoms


def rounded(atoms: Atoms, decimals: int) -> Atoms:
    copy = atoms.copy()
    copy.wrap()
    copy.set_cell(np.round(copy.cell.array, decimals))
    copy.positions = np.round(copy.positions, decimals)
    return copy


def wrapped(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    """Each atom in some periodic image."""
    copy = atoms.copy()
    copy.positions += rng.integers(-2, 3, size=(len(copy), 3)) @ copy.cell.array
    return copy


def permuted(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    return atoms[rng.permutation(len(atoms))]


def shifted(atoms: Atoms, rng: np.random.Generator) -> Atoms:
    copy = atoms.copy()
    copy.positions += rng.normal(size=3)
    return copy


def one_step(atoms: Atoms, rng: np.random.Generator, temperature_K: float) -> Atoms:
    """A femtosecond later, at thermal velocities."""
    copy = atoms.copy()
    speed = np.sqrt(units.kB * temperature_K / copy.get_masses())[:, None]
    copy.positions += speed * rng.normal(size=copy.positions.shape) * units.fs
    return copy


COPIES = {
    "wrapped": wrapped,
    "permuted": permuted,
    "translated": shifted,
    "all of it, five decimals": lambda a, rng: rounded(wrapped(permuted(shifted(a, rng), rng), rng), 5),
    "four decimals": lambda a, rng: rounded(permuted(a, rng), 4),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_training_structures_are_recognised(name: str, rng: np.random.Generator) -> None:
    originals = [crystal(rng, size) for size in (1, 2, 3) for _ in range(5)] + [bulk("Li"), bulk("LiS", "rocksalt", 5)]
    known = fitted_to([frame(atoms) for atoms in originals])
    copies = [frame(COPIES[name](atoms, rng)) for atoms in originals]
    assert overlap(known, copies) == {"train": len(originals)}


def test_copies_with_three_decimals_are_mostly_recognised(rng: np.random.Generator) -> None:
    originals = [crystal(rng, size) for size in (2, 3) for _ in range(20)]
    known = fitted_to([frame(atoms) for atoms in originals])
    assert overlap(known, [frame(rounded(atoms, 3)) for atoms in originals])["train"] >= 0.8 * len(originals)


@pytest.mark.parametrize("scale", [0.0, 0.08], ids=["crystal", "rattled"])
def test_steps_of_dynamics_and_rattled_structures_are_others(scale: float, rng: np.random.Generator) -> None:
    originals = [crystal(rng, size, scale) for size in (1, 2, 3) for _ in range(10)]
    known = fitted_to([frame(atoms) for atoms in originals])
    moved = [atoms.copy() for atoms in originals]
    for atoms in moved:
        atoms.rattle(0.01, rng=rng)
    steps = [one_step(atoms, rng, 300) for atoms in originals]
    strained = [Atoms(a.symbols, a.positions, cell=a.cell, pbc=True) for a in originals]
    for atoms in strained:
        atoms.set_cell(atoms.cell.array * [1.002, 1.0, 1.0], scale_atoms=True)
    for others in (moved, steps, strained):
        assert overlap(known, [frame(atoms) for atoms in others]) == {}


def test_a_displaced_atom_and_exchanged_elements_make_another_structure(rng: np.random.Generator) -> None:
    perfect = bulk("LiS", "rocksalt", a=5.2, cubic=True) * (2, 2, 2)
    displaced = perfect.copy()
    displaced.positions[0, 0] += 0.03
    exchanged = [perfect.copy() for _ in range(2)]
    for atoms, (i, j) in zip(exchanged, [(0, 1), (0, 3)], strict=True):
        atoms.symbols[[i, j]] = atoms.symbols[[j, i]]
    assert exchanged[0].get_distance(0, 1, mic=True) != pytest.approx(exchanged[1].get_distance(0, 3, mic=True))
    for known in (perfect, exchanged[0]):
        others = [atoms for atoms in (perfect, displaced, *exchanged) if atoms is not known]
        assert overlap(fitted_to([frame(known)]), [frame(atoms) for atoms in others]) == {}


def test_the_distance_of_two_molecules_counts_and_their_orientation_does_not(rng: np.random.Generator) -> None:
    def pair(distance: float) -> Atoms:
        other = molecule("H2O")
        other.positions += [0, 0, distance]
        return molecule("H2O") + other

    known = fitted_to([frame(pair(7.0))])
    assert overlap(known, [frame(pair(7.5))]) == {}
    turned = pair(7.0)
    turned.rotate(40, (1, 2, 3))
    assert overlap(known, [frame(turned)]) == {"train": 1}


def test_ten_thousand_frames_are_recognised_in_a_minute(rng: np.random.Generator) -> None:
    frames = [frame(crystal(rng, 3)) for _ in range(60)]  # 72 atoms
    start = time.process_time()
    assert overlap(fitted_to(frames), frames) == {"train": len(frames)}
    assert (time.process_time() - start) * 10_000 / len(frames) < 60 * 1.5


def test_a_checkpoint_with_hashes_alone_recognises_exact_copies(rng: np.random.Generator, tmp_path: Path) -> None:
    frames = [frame(crystal(rng)) for _ in range(3)]
    potential = CHGNet.tiny()
    potential.training_data = fitted_to(frames[:2], frames[2:])
    models.save(potential, tmp_path / "new.pt")
    assert models.load(tmp_path / "new.pt").training_data == potential.training_data
    content = torch.load(tmp_path / "new.pt", weights_only=True)
    del content["training"]["fingerprints"]  # as written by earlier versions
    content.pop("checksum")  # which earlier versions did not write
    torch.save(content, tmp_path / "old.pt")
    old, new = (models.load(tmp_path / name).training_data for name in ("old.pt", "new.pt"))
    exact, copies = [frame(f.atoms.copy()) for f in frames], [frame(wrapped(f.atoms, rng)) for f in frames]
    message = "trained on 2 of these 3 frames, validated on 1 of these 3 frames"
    assert overlap_message(old, exact) == overlap_message(new, exact) == overlap_message(new, copies) == message
    assert overlap_message(old, copies) == ""
    assert overlap(new.after(old), copies) == {"train": 2, "valid": 1}


def test_parts_of_a_split_that_share_a_structure_in_another_form_are_refused(rng: np.random.Generator) -> None:
    train = [frame(crystal(rng), "train.extxyz", k) for k in range(4)]
    valid = [frame(rounded(permuted(train[2].atoms, rng), 4), "valid.extxyz")]
    with pytest.raises(InputError, match=r"1 structures stand in both.*frame 2 of train.extxyz and frame 0 of valid"):
        check_disjoint({"train": train, "valid": valid})
    found = next(finding for finding in leaks([*train, *valid]) if finding.check == "leaks: structures")
    assert found.verdict == "fault"
    assert "frame 0 of valid.extxyz as 2" in found.words


def test_commands_recognise_training_frames_that_another_program_wrote(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    originals = [crystal(rng) for _ in range(4)]
    for k, atoms in enumerate(originals):
        atoms.info |= {"REF_energy": -3.0 * len(atoms) - 0.1 * k, "group": f"g{k}"}
        atoms.arrays["REF_forces"] = rng.normal(size=(len(atoms), 3))
        atoms.arrays["REF_forces"] -= atoms.arrays["REF_forces"].mean(axis=0)
    ase.io.write(tmp_path / "train.extxyz", originals[:2], format="extxyz")
    copies = [rounded(permuted(wrapped(atoms, rng), rng), 5) for atoms in originals]
    ase.io.write(tmp_path / "copies.extxyz", copies, format="extxyz")
    potential = CHGNet.tiny()
    potential.training_data = fitted_to(read(tmp_path / "train.extxyz"))
    models.save(potential, tmp_path / "model.pt")
    assert command("evaluate", tmp_path / "model.pt", tmp_path / "copies.extxyz") == 0
    assert "trained on 2 of these 4 frames" in capsys.readouterr().out
    arguments = (tmp_path / "model.pt", tmp_path / "copies.extxyz", "--output", tmp_path / "c.pt")
    assert command("calibrate", *arguments) == 1
    error = capsys.readouterr().err
    assert "frame 0 of" in error
    assert "trained on 2 of these 4 frames" in error
