"""The shipped files are what their manifest says."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import ase.io
import pytest

from finetune.data.frames import data_hash
from finetune.data.reading import read
from finetune.data.splitting import PARTS, split

FOLDER = Path(__file__).parents[1] / "data"
MANIFEST = json.loads((FOLDER / "interface" / "manifest.json").read_text())
PATHS = {part: FOLDER / "interface" / f"{part}.extxyz" for part in PARTS}


@pytest.mark.parametrize("part", PARTS)
def test_files_have_the_hashes_and_counts_of_the_manifest(part):
    said, frames = MANIFEST["files"][f"{part}.extxyz"], read(PATHS[part])
    assert hashlib.sha256(PATHS[part].read_bytes()).hexdigest() == said["sha256"]
    assert len(frames) == said["frames"]
    assert sum(len(frame.atoms) for frame in frames) == said["atoms"]
    assert len({frame.group for frame in frames}) == said["groups"]
    assert dict(Counter(frame.family for frame in frames)) == said["families"]


def test_splitting_all_frames_again_gives_the_shipped_parts():
    frames = read(list(PATHS.values()))
    assert data_hash(frames) == MANIFEST["data_hash"]
    parts = split(frames[::-1], tuple(MANIFEST["split"]["fractions"]), MANIFEST["split"]["seed"])
    for part, again in zip(PARTS, parts, strict=True):
        assert data_hash(again) == data_hash(read(PATHS[part]))


def test_every_part_has_every_family_and_the_target_interface_is_only_in_test():
    for part in PARTS:
        assert set(MANIFEST["files"][f"{part}.extxyz"]["families"]) == set(MANIFEST["families"])
    targets = {part: sum(frame.group.startswith("target:") for frame in read(PATHS[part])) for part in PARTS}
    assert targets == {"train": 0, "valid": 0, "test": 3}


def test_frames_say_how_they_were_made_and_what_they_cost():
    for atoms in ase.io.read(PATHS["train"], index=":"):
        assert {"family", "group", "made_by", "id", "wall_s"} <= set(atoms.info)


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
    assert MANIFEST["licence"] == "CC-BY-4.0"
