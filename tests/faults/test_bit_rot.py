"""Bits that flip on a disk: a file of ours is refused in words, or its content is the same to the last bit."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune
from finetune import models
from finetune.adapting import Shifted
from finetune.backbones.chgnet import CHGNet
from finetune.data.caching import build_graphs
from finetune.data.frames import Frame
from finetune.errors import InputError
from finetune.md import Langevin, Output, Stage, simulate
from finetune.md import state as md_state
from finetune.training.run import WholeFiles

from ..commands import THEIR_WARNINGS, command, fit_arguments, write_parts
from ..einstein import crystal
from ..structures import of_family

pytestmark = THEIR_WARNINGS
FLIPS = 60


def same(a: object, b: object) -> bool:
    """Equal containers of tensors, arrays and plain values, to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def flips(path: Path, rng: np.random.Generator, number: int = FLIPS):
    """The file with one bit changed, at one random place after the other."""
    whole = path.read_bytes()
    for place in rng.integers(len(whole), size=number):
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        yield int(place)
    path.write_bytes(whole)


def assert_refused_or_same(path: Path, read, rng: np.random.Generator) -> int:
    """Number of flips that were refused."""
    before, refused = read(), 0
    for place in flips(path, rng):
        try:
            after = read()
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
        else:
            assert same(after, before), place
    return refused


def content(path: Path) -> dict:
    potential = finetune.load(path)
    return {"config": potential.config(), "weights": dict(potential.state_dict())}


def test_a_flipped_bit_in_a_checkpoint_is_refused_or_in_the_padding(tmp_path, rng):
    path = tmp_path / "model.pt"
    finetune.save(Shifted(CHGNet.tiny(), {3: -1.25}), path)
    assert assert_refused_or_same(path, lambda: content(path), rng) > FLIPS // 2


def test_a_flipped_bit_in_the_state_of_a_fit_is_refused_or_in_the_padding(tmp_path, rng):
    files = write_parts(tmp_path)
    arguments = fit_arguments(files, tmp_path / "run", "--data.test", "null", "--trainer.max_epochs", "1")
    assert command(*arguments) == 0
    path = tmp_path / "run" / models.LAST
    assert torch.load(path, weights_only=True)["optimizer_states"]
    assert assert_refused_or_same(path, lambda: WholeFiles().load_checkpoint(path), rng) > FLIPS // 2
    stored = torch.load(path, weights_only=True)
    stored["optimizer_states"][0]["state"][0]["exp_avg"].view(-1)[0] += 1.0  # a whole archive, another state
    torch.save(stored, path)
    assert command(*arguments, "--ckpt_path", "last", "--trainer.max_epochs", "2") == 1


def test_a_changed_number_in_a_whole_archive_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    finetune.save(CHGNet.tiny(), path)
    for change in ("weights", "config", "licence"):
        stored = torch.load(path, weights_only=True)
        if change == "weights":
            next(iter(stored["state_dict"].values())).view(-1)[0] += 1.0
        elif change == "config":
            stored["potential"]["init_args"]["architecture"]["n_conv"] += 1
        else:
            stored["licence"] = "another"
        torch.save(stored, tmp_path / "changed.pt")
        with pytest.raises(InputError, match=r"changed\.pt is damaged .*its checksum differs from its content"):
            finetune.load(tmp_path / "changed.pt")


def test_a_checkpoint_of_an_earlier_version_is_read_and_its_bits_are_verified(tmp_path, rng):
    path = tmp_path / "old.pt"
    potential = CHGNet.tiny()
    torch.save({"format": models.FORMAT, **models.packed(potential), "about": {}}, path)
    assert assert_refused_or_same(path, lambda: content(path), rng) > FLIPS // 2
    assert same(content(path)["weights"], dict(potential.state_dict()))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of a simulation."""
    hot = Langevin(temperature_K=500.0, friction_per_fs=0.02, timestep_fs=2.0)
    simulate(crystal(), [Stage(hot, 0.02)], tmp_path / "run", output=Output(every=5), progress=False)
    return tmp_path / "run"


def test_a_flipped_bit_in_the_state_of_a_simulation_is_refused_or_in_the_padding(run, rng):
    path = run / "checkpoint.npz"
    assert assert_refused_or_same(path, lambda: list(md_state.read(path)), rng) > FLIPS // 2


def test_a_changed_number_in_the_state_of_a_simulation_is_refused(run):
    path = run / "checkpoint.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    for key in ("array positions", "facts"):
        changed = dict(arrays)
        if key == "facts":
            changed[key] = np.array(json.dumps({**json.loads(str(arrays[key])), "time_ps": 1.0}))
        else:
            changed[key] = arrays[key] + 0.01
        np.savez(path, **changed)
        with pytest.raises(InputError, match=r"checkpoint\.npz is damaged \(its checksum differs"):
            md_state.read(path)


def test_the_state_of_a_simulation_of_an_earlier_version_is_read(run):
    path = run / "checkpoint.npz"
    now = md_state.read(path)
    with np.load(path) as archive:
        old = {key: archive[key] for key in archive.files if key != "checksum"}
    np.savez(path, **old)
    assert same(list(md_state.read(path)), list(now))


@pytest.fixture
def frames() -> list[Frame]:
    """Two structures."""
    return [
        Frame(of_family(family), {}, "a.extxyz", k, "all", "a") for k, family in enumerate(("crystal", "interface"))
    ]


def test_a_cache_with_a_flipped_bit_is_built_anew_and_named(tmp_path, frames, rng, capsys):
    potential = CHGNet.tiny()
    built = build_graphs(potential, frames, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    capsys.readouterr()
    named = 0
    for _ in flips(path, rng, 20):
        assert same(build_graphs(potential, frames, cache=tmp_path), built)
        named += f"{path}: damaged graph cache" in capsys.readouterr().err
    assert named > 10


def test_a_cache_of_an_earlier_version_is_read(tmp_path, frames, capsys):
    potential = CHGNet.tiny()
    built = build_graphs(potential, frames, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    stored = torch.load(path, weights_only=True)
    del stored["checksum"]
    torch.save(stored, path)
    capsys.readouterr()
    assert same(build_graphs(potential, frames, cache=tmp_path), built)
    assert capsys.readouterr().err == ""


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    import zipfile

    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", bytes(10**7))
    (tmp_path / "bomb.pt").write_bytes(bomb.getvalue())
    with pytest.raises(InputError, match="is compressed, which no version of this package writes"):
        finetune.load(tmp_path / "bomb.pt")
