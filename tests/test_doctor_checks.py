"""Checks of the doctor that need no model: finite differences inside trajectories, duplicates and leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.units import Bohr, GPa, Hartree, kcal, mol

from finetune.data.frames import Frame
from finetune.doctor.contents import settings
from finetune.doctor.findings import Finding
from finetune.doctor.likeness import Likeness, likeness
from finetune.doctor.structures import duplicates, leaks, near_duplicates
from finetune.doctor.trajectories import finite_differences

FORCES, ENERGY, STRESS = (f"{name} along trajectories" for name in ("forces", "energy", "stress"))


def labelled(atoms: Atoms, index: int, group: str = "g", source: str = "train.extxyz") -> Frame:
    """A frame with energy, forces and stress of effective medium theory."""
    calculator = EMT()
    calculator.calculate(atoms, ["energy", "forces", "stress"])
    given = {name: calculator.results[name] for name in ("energy", "forces", "stress")}
    atoms.info["group"] = group
    return Frame(atoms, given, source, index, "crystal", group)


def alloy() -> Atoms:
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.numbers[::3] = 47
    atoms.set_cell(1.04 * atoms.cell.array, scale_atoms=True)
    return atoms


def trajectory(rng: np.random.Generator, count: int = 8, size: float = 0.06) -> list[Frame]:
    """A random walk around a crystal, 0.06 Å in every coordinate, some atoms written in another image."""
    base = alloy()
    images = []
    for _ in range(count):
        atoms = base.copy()
        atoms.positions += rng.normal(scale=size, size=atoms.positions.shape)
        atoms.positions[0] += rng.integers(-1, 2, size=3) @ atoms.cell.array
        images.append(atoms)
    return [labelled(atoms, k) for k, atoms in enumerate(images)]


def strained(rng: np.random.Generator, count: int = 6) -> list[Frame]:
    """One crystal under random strains of 2 %, its atoms at the same scaled positions."""
    images = []
    for _ in range(count):
        atoms, strain = alloy(), rng.normal(scale=0.02, size=(3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        images.append(atoms)
    return [labelled(atoms, k) for k, atoms in enumerate(images)]


def scaled(frames: Sequence[Frame], **factors: float) -> list[Frame]:
    return [replace(f, given={k: factors.get(k, 1.0) * np.asarray(v) for k, v in f.given.items()}) for f in frames]


def found(findings: Sequence[Finding], check: str) -> Finding:
    return next(finding for finding in findings if finding.check == check)


def test_energies_change_by_the_work_of_the_forces(rng: np.random.Generator) -> None:
    findings = finite_differences(trajectory(rng))
    assert [found(findings, check).verdict for check in (FORCES, ENERGY, STRESS)] == ["good", "good", "skipped"]


def test_energies_change_by_the_work_of_the_stress(rng: np.random.Generator) -> None:
    assert found(finite_differences(strained(rng)), STRESS).verdict == "good"


def test_gradients_for_forces_are_found_without_energies(rng: np.random.Generator) -> None:
    frames = [replace(f, given={"forces": -f.given["forces"]}) for f in trajectory(rng)]
    finding = found(finite_differences(frames), FORCES)
    assert finding.verdict == "fault"
    assert "multiply by -1" in finding.remedy


def test_shuffled_forces_are_found_without_energies(rng: np.random.Generator) -> None:
    frames = [replace(f, given={"forces": rng.permutation(f.given["forces"])}) for f in trajectory(rng)]
    finding = found(finite_differences(frames), FORCES)
    assert finding.verdict == "fault"
    assert "another order of atoms" in finding.remedy


@pytest.mark.parametrize(
    ("factors", "unit"),
    [
        ({"forces": mol / kcal}, "forces in kcal/mol/Å"),
        ({"forces": Bohr / Hartree}, "forces in Hartree/Bohr"),
        ({"energy": mol / kcal}, "energies in kcal/mol"),
        ({"energy": 1 / Hartree}, "energies in Hartree"),
        ({"energy": 1 / 8}, "energies in eV/atom"),
    ],
)
def test_energies_and_forces_in_different_units_are_found(
    factors: dict[str, float], unit: str, rng: np.random.Generator
) -> None:
    finding = found(finite_differences(scaled(trajectory(rng), **factors)), ENERGY)
    assert finding.verdict == "fault"
    assert unit in finding.remedy


@pytest.mark.parametrize(
    ("factor", "words"),
    [(-1.0, ["opposite sign"]), (1 / GPa, ["in GPa"]), (-10 / GPa, ["in kbar", "opposite sign"])],
)
def test_stress_of_another_sign_or_unit_is_found(factor: float, words: list[str], rng: np.random.Generator) -> None:
    finding = found(finite_differences(scaled(strained(rng), stress=factor)), STRESS)
    assert finding.verdict == "fault"
    assert all(word in finding.remedy for word in words)
    assert ("opposite sign" in finding.remedy) == (factor < 0)


def test_frames_that_are_far_apart_tell_nothing(rng: np.random.Generator) -> None:
    findings = finite_differences(trajectory(rng, size=1.0))
    assert {finding.verdict for finding in findings} == {"skipped"}


def test_relaxed_frames_whose_forces_are_noise_are_let_through(rng: np.random.Generator) -> None:
    """Images of a barrier, relaxed cells: energies differ, forces are next to nothing."""
    for frames in (trajectory(rng), strained(rng)):
        n = len(frames[0].atoms)
        frames = [replace(f, given={**f.given, "forces": rng.normal(scale=0.01, size=(n, 3))}) for f in frames]
        findings = finite_differences(frames)
        assert [found(findings, check).verdict for check in (FORCES, ENERGY)] == ["skipped", "skipped"]


def test_frames_of_other_groups_are_not_compared(rng: np.random.Generator) -> None:
    frames = [replace(frame, group=str(k)) for k, frame in enumerate(trajectory(rng))]
    assert {finding.verdict for finding in finite_differences(frames)} == {"skipped"}


def alike(frames: Sequence[Frame]) -> Likeness:
    return likeness([frame.atoms for frame in frames], None)


def test_a_structure_that_stands_twice_is_a_warning_and_with_other_labels_a_fault(rng: np.random.Generator) -> None:
    frames = trajectory(rng, 3)
    assert duplicates(frames).verdict == "good"
    assert duplicates([*frames, replace(frames[0], index=3)]).verdict == "warning"
    other = duplicates([*frames, *scaled([replace(frames[0], index=3)], energy=1.01)])
    assert other.verdict == "fault"
    assert "frame 3 of train.extxyz as 0" in other.words


def test_frames_closer_than_a_small_displacement_are_near_duplicates(rng: np.random.Generator) -> None:
    frames = trajectory(rng, 6, size=0.15)
    assert near_duplicates(frames, alike(frames)).verdict == "good"
    copies = [f.atoms.copy() for f in frames[:3]]
    for atoms in copies:
        atoms.positions += rng.normal(scale=0.003, size=atoms.positions.shape)
    both = [*frames, *(labelled(atoms, 6 + k) for k, atoms in enumerate(copies))]
    finding = near_duplicates(both, alike(both))
    assert finding.verdict == "warning"
    assert finding.words.startswith("6 of 9 frames")


def test_likeness_does_not_see_rotation_order_or_supercells(rng: np.random.Generator) -> None:
    atoms = trajectory(rng, 1, size=0.1)[0].atoms
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    same = [atoms, turned, atoms[rng.permutation(len(atoms))], atoms * (1, 2, 1)]
    distances = likeness(same, None).distances(np.arange(4), np.arange(4))
    assert distances.max() < 1e-3


def test_equal_surroundings_in_other_proportions_are_not_alike() -> None:
    lonely = [
        Atoms(symbols, [(20 * k, 0, 0) for k in range(len(symbols))]) for symbols in (["Li", "P"], ["Li", "Li", "P"])
    ]
    distances = likeness(lonely, None).distances(np.arange(2), np.arange(2))
    assert distances[0, 1] == pytest.approx(np.sqrt(2) * (1 / 6) / 0.02)


def test_one_file_has_no_leaks(rng: np.random.Generator) -> None:
    assert [finding.verdict for finding in leaks(trajectory(rng, 3))] == ["skipped"]


def test_leaks_between_files_are_found_by_what_they_share(rng: np.random.Generator) -> None:
    train = trajectory(rng, 5, size=0.15)
    other = [labelled(f.atoms * (1, 1, 2), k, "h", "train.extxyz") for k, f in enumerate(trajectory(rng, 3, size=0.15))]
    copy = replace(train[0], source="test.extxyz", index=0, group="x")
    moved = train[1].atoms.copy()
    moved.positions += rng.normal(scale=0.003, size=moved.positions.shape)
    moved = labelled(moved, 0, "x", "test.extxyz")
    larger = train[1].atoms.copy()
    larger.set_cell(1.1 * larger.cell.array, scale_atoms=True)
    group = labelled(larger, 0, "g", "test.extxyz")
    apart = replace(group, group="x")
    expected = {"structures": (copy, "fault"), "groups": (group, "fault"), "cells": (moved, "warning")}
    for check, (frame, verdict) in expected.items():
        frames = [*train, *other, frame]
        assert found(leaks(frames), f"leaks: {check}").verdict == verdict
        assert found(leaks([*train, *other, apart]), f"leaks: {check}").verdict == "good"
    for frame, verdict in ((moved, "fault"), (apart, "good")):  # all of the part is near
        frames = [*train, *other, frame]
        assert found(leaks(frames, alike(frames), frames), "leaks: likeness").verdict == verdict
    far = [replace(labelled(larger.repeat((1, 1, 1)), k, "y", "test.extxyz"), index=k) for k in range(1, 6)]
    frames = [*train, *other, moved, *far]  # one of six
    assert found(leaks(frames, alike(frames), frames), "leaks: likeness").verdict == "warning"


def test_a_divided_trajectory_is_found_where_no_frame_names_its_group(rng: np.random.Generator) -> None:
    others = [labelled(f.atoms * (1, 1, 2), k, "h") for k, f in enumerate(trajectory(rng, 3, size=0.15))]
    walk = [labelled(alloy(), 0, "a")]
    for k in range(11):  # steps that are small beside the displacement that likeness is measured by
        atoms = walk[-1].atoms.copy()
        atoms.positions += rng.normal(scale=0.004, size=atoms.positions.shape)
        walk.append(labelled(atoms, k + 1, "b" if k % 4 == 0 else "a", "test.extxyz" if k % 4 == 0 else "train.extxyz"))
    frames = [*others, *walk]
    for frame in frames:
        del frame.atoms.info["group"]
    findings = leaks(frames, alike(frames), frames)
    assert found(findings, "leaks: groups").verdict == "skipped"
    assert found(findings, "leaks: likeness").verdict == "fault"


def test_the_method_of_the_labels_is_compared(rng: np.random.Generator) -> None:
    frames = trajectory(rng, 4)
    assert [f.verdict for f in settings(frames)] == ["skipped"]
    for frame in frames:
        frame.atoms.info |= {"label_method": "0123456789ab", "label_code": "gpaw 26.7"}
    assert [f.verdict for f in settings(frames)] == ["good", "good"]
    frames[0].atoms.info["label_code"] = "gpaw 25.1"
    assert [f.verdict for f in settings(frames)] == ["good", "warning"]
    frames[1].atoms.info["label_method"] = "ba9876543210"
    assert [f.verdict for f in settings(frames)] == ["fault", "warning"]
    del frames[2].atoms.info["label_method"], frames[1].atoms.info["label_method"]
    assert [f.verdict for f in settings(frames)] == ["warning", "warning"]
