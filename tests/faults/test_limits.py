"""Absurd sizes end with a message at once: positions, announced numbers of atoms, files that grow when decompressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms

from finetune import models
from finetune.data import compression
from finetune.data.reading import read
from finetune.data.structures import read_images
from finetune.errors import InputError
from finetune.graph import neighbour_graph

HEADER = 'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3 REF_energy=-1.0 pbc="T T T"\n'


@pytest.mark.parametrize("place", [2147483648.0, 1e20])
@pytest.mark.parametrize("periodic", [True, False])
def test_positions_of_planetary_size_are_refused_by_every_graph(place: float, periodic: bool) -> None:
    atoms = Atoms("Li2", [[0, 0, 0], [0, 0, place]], cell=[9, 9, 9], pbc=periodic)
    with pytest.raises(InputError, match="check the unit"):
        neighbour_graph(atoms, 5.0)
    atoms = Atoms("Li2", [[0, 0, 0], [0, 0, 2.5]], cell=[9, 9, place], pbc=True)
    with pytest.raises(InputError, match="check the unit"):
        neighbour_graph(atoms, 5.0)


@pytest.mark.parametrize("count", ["99999999999", "9" * 30])
def test_a_frame_that_announces_more_atoms_than_the_file_has_ends_at_once(tmp_path: Path, count: str) -> None:
    path = tmp_path / "large.extxyz"
    path.write_text(f"{count}\n{HEADER}Li 0 0 0\n")
    start = time.monotonic()
    with pytest.raises(InputError, match="frame 0"):
        read([str(path)])
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_a_file_that_grows_without_end_is_refused_and_one_that_only_compresses_well_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, pack: object
) -> None:
    monkeypatch.setattr(compression, "LARGE", 2**20)
    bomb = tmp_path / f"bomb.extxyz{suffix}"
    bomb.write_bytes(pack(b" " * 2**24))  # type: ignore[operator]
    with pytest.raises(InputError, match=r"got more than [13] MiB from .* decompress it first"):
        read_images(bomb)
    ase.io.write(tmp_path / "same.extxyz", [Atoms("Li2", [[0, 0, 0], [0, 0, 2.5]], cell=np.eye(3) * 9, pbc=True)] * 500)
    sound = tmp_path / f"sound.extxyz{suffix}"
    sound.write_bytes(pack((tmp_path / "same.extxyz").read_bytes()))  # type: ignore[operator]
    assert len(read_images(sound)) == 500


def test_an_occupancy_that_is_no_number_is_refused(tmp_path: Path) -> None:
    atoms = Atoms("Li", cell=[3, 3, 3], pbc=True)
    atoms.info["occupancy"] = {"0": {"Li": "a half"}}
    ase.io.write(tmp_path / "cell.traj", atoms)
    with pytest.raises(InputError, match="occupancy 'a half'"):
        read_images(tmp_path / "cell.traj")


@pytest.mark.parametrize("name", ["POSCAR", "OUTCAR"])
def test_a_vasp_file_that_announces_more_atoms_than_it_has_bytes_is_refused(tmp_path: Path, name: str) -> None:
    text = "Li\n1.0\n9 0 0\n0 9 0\n0 0 9\nLi\n99999999999\nDirect\n0 0 0\n"
    (tmp_path / name).write_text(text if name == "POSCAR" else " number of ions     NIONS = 99999999999\n")
    with pytest.raises(InputError, match="got 99999999999 atoms"):
        read_images(tmp_path / name)


@pytest.mark.parametrize(("place", "value"), [("n_conv", 10**9), ("n_conv", "many"), ("atom_fea_dim", 10**7)])
def test_a_checkpoint_whose_settings_cannot_be_built_is_refused_at_once(place: str, value: object) -> None:
    settings = {"n_conv": 2, "atom_fea_dim": 8, "bond_fea_dim": 8, "angle_fea_dim": 8, place: value}
    config = {"foundation": None, "architecture": settings}
    start = time.monotonic()
    with pytest.raises(InputError, match="checkpoint"):
        models.build({"class_path": "finetune.backbones.chgnet.CHGNet", "init_args": config})
    assert time.monotonic() - start < 20
