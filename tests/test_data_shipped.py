"""The shipped files are what their manifest says."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import ase
import ase.io
import ase.units
import numpy as np
import pytest
import yaml
from pymatgen.entries.computed_entries import ComputedEntry

from finetune.data.frames import data_hash
from finetune.data.reading import read
from finetune.data.splitting import PARTS, split
from finetune.labelling import Calculated

FOLDER = Path(__file__).parents[1] / "data"
SETS = ("interface", "starting")


def manifest(name: str) -> dict:
    return json.loads((FOLDER / name / "manifest.json").read_text())


def path(name: str, part: str) -> Path:
    return FOLDER / name / f"{part}.extxyz"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", SETS)
def test_files_have_the_hashes_and_counts_of_the_manifest(name, part):
    said, frames = manifest(name)["files"][f"{part}.extxyz"], read(path(name, part))
    assert hashlib.sha256(path(name, part).read_bytes()).hexdigest() == said["sha256"]
    assert len(frames) == said["frames"]
    assert sum(len(frame.atoms) for frame in frames) == said["atoms"]
    assert len({frame.group for frame in frames}) == said["groups"]
    assert dict(Counter(frame.family for frame in frames)) == said["families"]


def test_the_references_are_what_their_manifest_says():
    said = manifest("reference")
    assert set(said["files"]) == {file.name for file in (FOLDER / "reference").glob("*.extxyz")}
    for name, file in said["files"].items():
        frames = ase.io.read(FOLDER / "reference" / name, ":")
        assert hashlib.sha256((FOLDER / "reference" / name).read_bytes()).hexdigest() == file["sha256"]
        assert dict(Counter(frame.info["group"] for frame in frames)) == file["groups"]
        configs = {file["config"]} if isinstance(file["config"], str) else set(file["config"].values())
        assert {config.split(",")[0] for config in configs} <= set(said["configs"])
        if isinstance(file["label_methods"], dict):  # one hash of settings for each config
            assert len(file["label_methods"]) == len(configs)


def test_single_atoms_are_labelled_with_integer_occupations():
    """No smearing: of three degenerate orbitals it would fill a third each, and add its entropy to the energy."""
    config = yaml.safe_load((FOLDER.parent / "configs/label/gpaw-atoms.yaml").read_text())["labeller"]["init_args"]
    assert config["settings"]["occupations"] == {"name": "fermi-dirac", "width": 0.0, "fixmagmom": True}
    atoms = ase.io.read(FOLDER / "reference/atoms.extxyz", ":")
    labeller = Calculated(config["calculator"], config["settings"])
    assert {frame.info["label_method"] for frame in atoms} == {labeller.method_hash(atoms[0].info["label_code"])}


@pytest.mark.parametrize("name", SETS)
def test_splitting_all_frames_again_gives_the_shipped_parts(name):
    said, frames = manifest(name), read([path(name, part) for part in PARTS])
    assert data_hash(frames) == said["data_hash"]
    parts = split(frames[::-1], tuple(said["split"]["fractions"]), said["split"]["seed"])
    for part, again in zip(PARTS, parts, strict=True):
        assert data_hash(again) == data_hash(read(path(name, part)))


@pytest.mark.parametrize("name", SETS)
def test_every_part_has_every_family(name):
    said = manifest(name)
    for part in PARTS:
        assert set(said["files"][f"{part}.extxyz"]["families"]) == set(said["families"])


def test_the_dataset_has_what_it_is_for():
    frames = {part: read(path("interface", part)) for part in PARTS}
    together = [frame for part in PARTS for frame in frames[part]]
    assert len(together) >= 250
    target = [frame for frame in together if frame.group.startswith("Li|Li7P3S11-")]
    assert len(target) >= 8
    assert all(50 <= len(frame.atoms) <= 80 for frame in target)
    assert sum(frame.family == "amorphous" for frame in together) >= 60
    others = [frame for frame in together if frame.group.startswith(("Li|Li2S-", "Li|Li3P-", "Li|Li3PS4-"))]
    assert len(others) >= 40
    assert max(float(frame.labels.forces.norm(dim=1).max()) for frame in together) <= 20.0


def test_crystals_of_the_test_part_are_of_formulas_that_are_not_learned_from():
    formulas = {
        part: {
            frame.atoms.get_chemical_formula(empirical=True)
            for frame in read(path("interface", part))
            if frame.family == "crystal"
        }
        for part in PARTS
    }
    assert len(formulas["test"]) >= 3
    assert not formulas["test"] & (formulas["train"] | formulas["valid"])
    assert {"Li", "Li2S", "Li3P"} <= formulas["train"]


RELAXED = {"Li", "Li2S", "Li3P", "LiP", "Li3PS4", "Li2PS3", "Li7P3S11"}


def relaxed() -> dict[str, ase.Atoms]:
    return {atoms.info["group"]: atoms for atoms in ase.io.read(FOLDER / "reference" / "relaxed.extxyz", ":")}


def test_relaxed_phases_are_at_rest_and_below_their_equations_of_state():
    assert set(relaxed()) == RELAXED
    states = ase.io.read(FOLDER / "reference" / "equations-of-state.extxyz", ":")
    for phase, atoms in relaxed().items():
        assert np.linalg.norm(atoms.arrays["REF_forces"], axis=1).max() < 0.02
        assert np.abs(atoms.info["REF_stress"]).max() / ase.units.GPa < 0.2  # worth less than 0.1 meV/atom
        lowest = min(a.info["REF_energy"] / len(a) for a in states if a.info["group"] == phase)
        assert atoms.info["REF_energy"] / len(atoms) < lowest + 1e-6


def lithiation(entries: list[ComputedEntry]) -> float:
    """Energy of LiP + 2 Li -> Li3P by the lowest entry of each formula, eV."""
    lowest: dict[str, float] = {}
    for entry in entries:
        formula, units = entry.composition.get_reduced_formula_and_factor()
        lowest[formula] = min(lowest.get(formula, np.inf), entry.energy / units)
    return lowest["Li3P"] - lowest["LiP"] - 2 * lowest["Li"]


def test_lithiation_of_a_phosphide_costs_what_the_materials_project_says():
    """PBE too, by another code with other pseudopotentials: -1.74 eV."""
    said = json.loads((FOLDER / "structures" / "mp_gga_Li-P_entries.json").read_text())
    ours = [ComputedEntry(a.get_chemical_formula(), a.info["REF_energy"]) for a in relaxed().values()]
    assert lithiation(ours) == pytest.approx(lithiation([ComputedEntry.from_dict(e) for e in said]), abs=0.015)


@pytest.mark.parametrize("name", SETS)
def test_frames_say_how_they_were_made_and_what_they_cost(name):
    method = {"interface": "label_method", "starting": "id"}[name]
    for atoms in ase.io.read(path(name, "train"), index=":"):
        assert {"family", "group", "made_by", method, "wall_s"} <= set(atoms.info)


def test_structures_are_readable_and_small():
    cifs = sorted((FOLDER / "structures").glob("*/*.cif"))
    assert len(cifs) == 102
    for path in cifs[::10]:
        assert set(ase.io.read(path).numbers.tolist()) <= {3, 15, 16}
    for path in (FOLDER / "structures").glob("*.json"):
        assert json.loads(path.read_text())
    assert max(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 2 * 2**20


def test_sources_are_attributed():
    text = (FOLDER / "structures" / "README.md").read_text()
    for words in ("CC BY 4.0", "10.1063/1.4812323", "OBELiX", "matcalc"):
        assert words in text
    assert all(manifest(name)["licence"] == "CC-BY-4.0" for name in SETS)
