"""Batches fill an edge budget, hold every frame once, and cost the same on every process."""

from itertools import combinations

import numpy as np
import pytest
import torch
from ase import Atoms

from finetune.data.batching import Loader, collate_batch, plan
from finetune.errors import InputError
from finetune.graph import collate, neighbour_graph
from finetune.properties import Properties


def sizes(count=100, seed=0):
    return np.random.default_rng(seed).integers(100, 3000, size=count).tolist()


def flat(batches):
    return sorted(i for batch in batches for i in batch)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("budget", [3000, 8000, 10**6])
def test_batches_hold_every_frame_once_and_never_exceed_the_budget(budget, shuffled):
    edges = sizes()
    batches = plan(edges, budget, np.random.default_rng(1) if shuffled else None)
    assert flat(batches) == list(range(100))
    assert max(sum(edges[i] for i in batch) for batch in batches) <= budget


@pytest.mark.parametrize("wide", [False, True])
def test_batches_are_full_and_none_is_a_small_rest(wide):
    pareto = 50 + 300 * np.random.default_rng(0).pareto(1.5, 1000)
    edges = pareto.clip(max=7900).astype(int).tolist() if wide else sizes(400)
    for epoch in range(20):
        loads = np.array([sum(edges[i] for i in b) for b in plan(edges, 8000, np.random.default_rng([0, epoch]))])
        assert len(loads) <= 1.05 * sum(edges) / 8000 + 1
        assert loads.min() > 0.85 * 8000


def test_a_frame_beyond_the_budget_is_a_batch_of_its_own():
    batches = plan([10, 5000, 20, 700, 30], 100, np.random.default_rng(0))
    assert [1] in batches
    assert [3] in batches
    assert flat(batches) == list(range(5))
    assert len(batches) == 3


def test_frames_without_edges_are_spread_too():
    assert flat(plan([0, 0, 0, 0], 10)) == [0, 1, 2, 3]
    assert plan([], 10) == []


def test_order_is_a_function_of_seed_and_epoch():
    edges = sizes()
    first, again, next_epoch = (plan(edges, 8000, np.random.default_rng([7, epoch])) for epoch in (0, 0, 1))
    assert first == again
    assert not {frozenset(batch) for batch in first} & {frozenset(batch) for batch in next_epoch}


def test_epochs_mix_frames_freely():
    """Over 50 epochs nearly every pair of 20 frames has been in one batch."""
    edges, pairs = sizes(20), set()
    for epoch in range(50):
        for batch in plan(edges, 8000, np.random.default_rng([0, epoch])):
            pairs |= set(combinations(sorted(batch), 2))
    assert len(pairs) > 0.95 * 190


def test_without_rng_the_order_is_that_of_the_frames():
    batches = plan(sizes(), 8000)
    assert batches == sorted(batches)
    assert all(batch == sorted(batch) for batch in batches)


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 5, 13, 100])
def test_every_process_gets_the_same_number_of_batches(world_size, count):
    edges = sizes(count)
    shares = [plan(edges, 8000, np.random.default_rng(5), world_size, rank) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    together = [i for share in shares for batch in share for i in batch]
    assert set(together) == set(range(count))
    if count >= 13:
        assert sorted(together) == list(range(count))


def test_processes_work_equally_long_in_every_step():
    edges = sizes(400)
    ranks = [plan(edges, 8000, np.random.default_rng(5), 4, rank) for rank in range(4)]
    loads = np.array([[sum(edges[i] for i in batch) for batch in rank] for rank in ranks])
    assert (loads.min(axis=0) > 0.8 * loads.max(axis=0)).all()


def test_large_frames_are_repeated_only_where_processes_outnumber_them():
    shares = [plan([500, 500, 500], 100, None, 2, rank) for rank in range(2)]
    assert [len(share) for share in shares] == [2, 2]
    assert set(flat(shares[0]) + flat(shares[1])) == {0, 1, 2}


def test_a_budget_that_is_not_positive_is_refused():
    with pytest.raises(InputError, match="batch_edges 0 must be positive"):
        plan([1, 2], 0)


def batch_of_two():
    molecules = [Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.8]]), Atoms("LiH", positions=[[0, 0, 0], [0, 0, 1.6]])]
    labels = [
        Properties(
            torch.full((1,), float(k)).double(),
            torch.full((2, 3), float(k)).double(),
            torch.full((1, 3, 3), torch.nan).double(),
        )
        for k in range(2)
    ]
    return collate_batch(collate, [neighbour_graph(m, 3.0) for m in molecules], labels, [1, 0])


def test_a_batch_keeps_graphs_labels_and_numbers_in_one_order():
    batch = batch_of_two()
    assert len(batch) == 2
    assert batch.frames.tolist() == [1, 0]
    assert batch.n_atoms.tolist() == [2, 2]
    assert batch.graph["numbers"].tolist() == [3, 1, 1, 1]
    assert batch.labels.energy.tolist() == [1, 0]
    assert batch.labels.forces[:, 0].tolist() == [1, 1, 0, 0]
    assert batch.labels.stress.isnan().all()


def test_a_batch_moves_as_a_whole():
    moved = batch_of_two().to("meta")
    assert {value.device.type for value in [*moved.graph.values(), *moved.labels.known().values(), moved.frames]} == {
        "meta"
    }


def test_a_loader_goes_on_where_a_saved_one_stopped():
    batches = [[0], [1], [2], [3]]
    loader = Loader(batches, lambda indices: indices, epoch=2)
    iterator = iter(loader)
    seen = [next(iterator), next(iterator)]
    resumed = Loader(batches, lambda indices: indices, epoch=2)
    resumed.load_state_dict(loader.state_dict())
    assert seen + list(resumed) == batches
    assert list(resumed) == batches


@pytest.mark.parametrize(("epoch", "taken"), [(2, 4), (3, 1), (3, 4)])
def test_a_finished_epoch_or_another_one_is_not_taken_up(epoch, taken):
    loader = Loader([[0], [1], [2], [3]], lambda indices: indices, epoch=epoch)
    loader.load_state_dict({"epoch": 2, "done": taken})
    assert len(list(loader)) == 4
