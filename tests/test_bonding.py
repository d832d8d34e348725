"""The bonding check knows a glass of whole units from packed atoms."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.data.structures import read_images
from finetune.doctor.bonding import bonding, environments

from .commands import command

ROOT = Path(__file__).parents[1]
CRYSTALS = ROOT / "data" / "structures" / "materials_project"


def frames(structures: list[Atoms], family: str = "glass") -> list[Frame]:
    return [Frame(atoms, {}, "made", k, family, "g") for k, atoms in enumerate(structures)]


def crystal(name: str) -> Atoms:
    return read_images(next(CRYSTALS.glob(f"{name}_mp-*.cif")))[0][1]


def test_neighbours_of_a_molecule_are_its_bonds() -> None:
    found = environments(molecule("CH3OH"))
    assert found[:2] == [("H", "H", "H", "O"), ("C", "H")]


def test_a_primitive_cell_counts_the_images_of_its_own_atoms() -> None:
    assert environments(bulk("Si")) == [("Si",) * 4] * 2
    assert environments(bulk("Li")) == [None]


def test_each_phosphorus_of_li7p3s11_has_four_sulfur_neighbours_and_bridges_join_two_of_them() -> None:
    atoms = crystal("Li7P3S11")
    found = environments(atoms)
    assert [found[k] for k in np.flatnonzero(atoms.symbols == "P")] == [("S",) * 4] * 6
    assert sum(environment == ("P", "P") for environment in found) == 2  # one bridge in each P2S7
    assert all(found[k] is None for k in np.flatnonzero(atoms.symbols == "Li"))


def test_a_shaken_crystal_is_bonded_as_it_was_and_packed_atoms_are_not(rng: np.random.Generator) -> None:
    whole = crystal("Li7P3S11")
    shaken = whole.copy()
    shaken.rattle(0.1, rng=rng)
    (good,) = bonding(frames([shaken] * 2), frames([whole]))
    assert good.verdict == "good"
    assert good.words.endswith("P in glass 100%, S in glass 100%")
    packed = whole.copy()
    packed.numbers = rng.permutation(packed.numbers)
    (bad,) = bonding(frames([packed] * 2), frames([whole]))
    assert bad.verdict == "warning"
    assert "PackedUnits" in bad.remedy


def test_a_check_without_crystals_or_nonmetals_cannot_judge_and_passes() -> None:
    assert [found.verdict for found in bonding(frames([crystal("Li2S")]), None)] == ["skipped"]
    metal = frames([bulk("Li", cubic=True)])
    assert [found.verdict for found in bonding(metal, metal)] == ["skipped"]
    found = bonding(frames([crystal("Li7P3S11")]), frames([crystal("Li2S")]))
    assert found[0].verdict == "skipped"
    assert "no crystal has P" in found[0].words


def test_the_disordered_mixtures_of_the_first_dataset_are_no_glass(tmp_path: Path) -> None:
    first = [frame for frame in read([str(ROOT / "data/interface/train.extxyz")]) if frame.family == "amorphous"]
    path = tmp_path / "first.extxyz"
    ase.io.write(path, [frame.atoms for frame in first])
    options = ["--labels", "false", "--model", "none", "--crystals", f"[{CRYSTALS}/*.cif]", "--output", str(tmp_path)]
    assert command("doctor", path, *options) == 0
    found = json.loads((tmp_path / "doctor.json").read_text())["findings"]
    (bonds,) = [finding for finding in found if finding["check"] == "bonding"]
    assert bonds["verdict"] == "warning"
    assert "P in amorphous" in bonds["words"]
