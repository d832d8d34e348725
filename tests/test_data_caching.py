"""Graphs from memory, from threads and from disk are the same graphs."""

from pathlib import Path

import ase.io
import pytest
import torch

from finetune.backbones.chgnet import CHGNet
from finetune.data.caching import build_graphs
from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.errors import InputError

TRAIN = Path(__file__).parents[1] / "data" / "starting" / "train.extxyz"


@pytest.fixture(scope="module")
def frames():
    return read(TRAIN)[:6]


@pytest.fixture
def potential():
    return CHGNet.tiny()


def assert_same(graphs, others):
    assert len(graphs) == len(others)
    for graph, other in zip(graphs, others, strict=True):
        assert graph.keys() == other.keys()
        for key in graph:
            torch.testing.assert_close(graph[key], other[key], rtol=0, atol=0)


def test_threads_build_the_same_graphs_in_the_same_order(frames, potential):
    large = [Frame(f.atoms.repeat((2, 2, 2)), {}, f.source, f.index, f.family, f.group) for f in frames]
    assert sum(len(frame.atoms) for frame in large) > 150 * len(large)
    assert_same(build_graphs(potential, large, workers=4), [potential.graph(frame.atoms) for frame in large])


def test_a_disk_cache_returns_the_same_graphs(tmp_path, frames, potential):
    built = build_graphs(potential, frames, cache=tmp_path)
    files = list(tmp_path.iterdir())
    assert len(files) == 1
    assert_same(build_graphs(potential, frames, cache=tmp_path), built)
    assert list(tmp_path.iterdir()) == files
    assert_same(built, [potential.graph(frame.atoms) for frame in frames])


def test_cached_graphs_are_read_and_not_built(tmp_path, frames, potential, monkeypatch):
    built = build_graphs(potential, frames, cache=tmp_path)
    monkeypatch.setattr(CHGNet, "graph", lambda self, atoms: pytest.fail("built again"))
    assert_same(build_graphs(potential, frames, cache=tmp_path), built)


def test_another_potential_or_another_structure_has_a_cache_of_its_own(tmp_path, frames, potential):
    build_graphs(potential, frames, cache=tmp_path)
    build_graphs(CHGNet(None, {**potential.architecture, "bond_graph_cutoff": 2.0}), frames, cache=tmp_path)
    moved = frames[0].atoms.copy()
    moved.positions[0, 0] += 1e-9
    first = Frame(moved, {}, "a.extxyz", 0, "all", "a")
    build_graphs(potential, [first, *frames[1:]], cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"no zip file", None])
def test_a_damaged_cache_is_built_anew(tmp_path, frames, potential, damage):
    built = build_graphs(potential, frames, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert_same(build_graphs(potential, frames, cache=tmp_path), built)
    assert len(path.read_bytes()) == len(whole)


def test_an_interrupted_write_leaves_no_cache_file(tmp_path, frames, potential, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"cannot write the graph cache .*No space left on device"):
        build_graphs(potential, frames, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_structure_that_the_potential_refuses_is_named(tmp_path, potential):
    atoms = ase.io.read(TRAIN, index=0)
    atoms.numbers[0] = 95
    ase.io.write(tmp_path / "a.extxyz", [ase.io.read(TRAIN, index=0), atoms])
    for workers in (1, 4):
        with pytest.raises(InputError, match=r"frame 1 of .*a\.extxyz: CHGNet does not know Am"):
            build_graphs(potential, read(tmp_path / "a.extxyz"), workers)


def test_no_frames_give_no_graphs(potential):
    assert build_graphs(potential, []) == []
