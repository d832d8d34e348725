"""Extrapolation grades are the published ones: ratios of determinants, 1 at most where a potential was trained."""

from __future__ import annotations

import warnings

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import covalent_radii

import finetune
from finetune import models
from finetune.adapting import Shifted
from finetune.backbones.ace import ACE
from finetune.backbones.chgnet import CHGNet
from finetune.committee import Committee
from finetune.errors import InputError
from finetune.learning.harvesting import Thresholds, harvest
from finetune.md.guards import Extrapolating
from finetune.md.snapshot import Snapshot
from finetune.sampling.core import Limits
from finetune.uncertainty import Graded, active_sets, grading
from finetune.uncertainty.maxvol import MaxVol, Spread

from .contract import built, predict
from .structures import ROOT, lithium, of_family
from .tolerances import close

TOLERANCE = 1.001  # of MaxVol


@pytest.fixture(scope="module")
def train():
    return ase.io.read(ROOT / "data/starting/train.extxyz", ":12")


@pytest.fixture(scope="module")
def small():
    """A linear expansion with fewer functions than there are atoms of any element."""
    torch.manual_seed(0)
    potential = ACE(["Li", "P", "S"], nmax=[3, 1], lmax=[0, 2], functions=None, cutoff=5.0).eval()
    torch.nn.init.normal_(potential.coefficients)
    return potential


@pytest.fixture(scope="module")
def graded(small, train):
    return Graded(small, active_sets(small, train)).eval()


def described(potential, atoms):
    """Descriptors as numpy, and the numbers of the atoms."""
    graph = potential.collate([potential.graph(atoms)])
    return potential.descriptors(graph).double().numpy(), atoms.numbers


def chosen(rows, offers=1):
    spread = Spread(rows.shape[1])
    spread.add(rows)
    maxvol = MaxVol(*spread.whitening(1e-10))
    for _ in range(10):
        parts = [maxvol.offer(rows[k::offers], np.arange(len(rows))[k::offers]) for k in range(offers)]
        if not sum(parts):
            return maxvol
    raise AssertionError("it does not settle")


@pytest.mark.parametrize("offers", [1, 7])
def test_no_exchange_of_a_member_for_a_row_enlarges_the_determinant(rng, offers):
    rows = rng.normal(size=(60, 5)) * [1, 10, 0.1, 3, 1e-4]
    members = chosen(rows, offers).members
    assert len(set(members)) == 5
    square = rows[members]
    volume = abs(np.linalg.det(square))
    ratios = np.zeros((60, 5))
    for i, j in np.ndindex(ratios.shape):
        exchanged = square.copy()
        exchanged[j] = rows[i]
        ratios[i, j] = abs(np.linalg.det(exchanged)) / volume
    assert ratios.max() <= TOLERANCE
    first = abs(np.linalg.det(rows[:5]))
    assert volume > 2 * first  # so the choice is one


def test_gamma_is_the_largest_ratio_of_determinants(rng):
    rows = rng.normal(size=(40, 4))
    maxvol = chosen(rows)
    square = rows[maxvol.members]
    for row in 2 * rng.normal(size=(5, 4)):
        ratios = []
        for j in range(4):
            exchanged = square.copy()
            exchanged[j] = row
            ratios.append(abs(np.linalg.det(exchanged) / np.linalg.det(square)))
        assert np.abs(row @ maxvol.inverse).max() == pytest.approx(max(ratios), rel=1e-9)


def test_gamma_of_a_linear_expansion_is_the_published_one(small, graded, train):
    """|B A^-1| with A the basis functions of the active atoms and nothing else (10.1103/PhysRevMaterials.7.043801)."""
    sets = active_sets(small, train)
    new = of_family("interface")
    new.rattle(0.3, seed=0)
    gamma, (rows, numbers) = predict(graded, new).gamma.numpy(), described(small, new)
    for number, found in sets.items():
        assert found.spanned == found.features == len(set(found.members))
        square = np.array([described(small, train[frame])[0][atom] for frame, atom in found.members])
        assert all(train[frame].numbers[atom] == number for frame, atom in found.members)
        expected = np.abs(np.linalg.solve(square.T, rows[numbers == number].T)).max(axis=0)
        np.testing.assert_allclose(gamma[numbers == number], expected, rtol=1e-6)
    assert gamma.max() > 1.5


def test_gamma_is_at_most_one_where_the_potential_was_trained(graded, train):
    gamma = np.concatenate([predict(graded, atoms).gamma for atoms in train])
    assert 0.99 < gamma.max() <= TOLERANCE
    squeezed = train[0].copy()
    squeezed.set_cell(0.8 * squeezed.cell, scale_atoms=True)
    assert predict(graded, squeezed).gamma.min() > 2


@pytest.mark.parametrize("name", ["chgnet:0.3.0", "mace:mini", "committee"])
def test_features_of_networks_are_graded_likewise(name, train):
    potential = built(name)
    sets = active_sets(potential, train[:6])
    gamma = np.concatenate([predict(Graded(potential, sets).eval(), atoms).gamma for atoms in train[:6]])
    assert 0.9 < gamma.max() <= 1.01


def test_streaming_and_recomputing_change_nothing_that_matters(small, train, monkeypatch):
    together = active_sets(small, train, batch_edges=10**9)
    monkeypatch.setattr(grading, "KEPT", 60_000)
    apart = active_sets(small, train, batch_edges=1)
    for number in together:
        volumes = [np.linalg.slogdet(sets[number].inverse)[1] for sets in (together, apart)]
        assert volumes[0] == pytest.approx(volumes[1], abs=0.2 * together[number].features)
    again = Graded(small, apart).eval()
    assert max(predict(again, atoms).gamma.max() for atoms in train) <= TOLERANCE


def test_fewer_atoms_than_descriptors_are_told_and_graded_coarsely(train):
    potential = built("ace")
    few = active_sets(potential, train[:2])
    assert few[15].atoms < few[15].features
    assert "too few for" in few[15].message("P")
    assert any(member == (-1, -1) for member in few[15].members)
    again = Graded(potential, few).eval()
    assert max(predict(again, atoms).gamma.max() for atoms in train[:2]) <= TOLERANCE
    strange = train[0].copy()
    strange.set_cell(0.8 * strange.cell, scale_atoms=True)
    assert predict(again, strange).gamma.max() > 5


def test_an_element_that_was_not_there_has_an_infinite_grade(small, train):
    gamma = predict(Graded(small, active_sets(small, [lithium()])).eval(), train[0]).gamma
    assert (torch.isinf(gamma) == torch.from_numpy(train[0].numbers != 3)).all()


@pytest.mark.parametrize("name", ["chgnet", "mace", "ace", "committee"])
def test_descriptors_of_the_same_pass_are_the_descriptors(name, train):
    potential = built(name)
    graph = potential.collate([potential.graph(atoms) for atoms in train[:2]])
    said, features = potential.described(graph)
    close(features, potential.descriptors(graph), "identity, float64")
    close(said.forces, potential(graph).forces, "identity, float64")


def test_grading_changes_nothing_else_and_runs_the_potential_once(train, small, graded):
    calls = []
    hook = small.products.register_forward_hook(lambda *_: calls.append(1))
    said = predict(graded, train[0])
    with_grades = len(calls)
    alone = predict(small, train[0])
    hook.remove()
    assert len(calls) == 2 * with_grades
    for name, value in alone.known().items():
        assert torch.equal(getattr(said, name), value)


def test_grades_are_stored_with_the_model(graded, train, tmp_path):
    outer = Shifted(graded, {3: -1.0})
    finetune.save(outer, tmp_path / "graded.pt")
    again = models.load(tmp_path / "graded.pt")
    assert torch.equal(predict(again, train[3]).gamma, predict(graded, train[3]).gamma)
    calculator = finetune.calculator(tmp_path / "graded.pt", device="cpu", dtype="float32")
    assert calculator.potential.dtype == torch.float32
    atoms = train[3].copy()
    atoms.calc = calculator
    atoms.get_forces()
    close(calculator.results["gamma"], predict(graded, train[3]).gamma, "float32 grade")
    assert again.potential.active_sets[3].atoms == graded.active_sets[3].atoms


def test_training_gives_and_keeps_no_grades(graded, small):
    graph = graded.collate([graded.graph(of_family("crystal"))])
    assert graded.train()(graph).gamma is None
    assert graded.eval()(graph).gamma is not None
    assert graded.bare() is small
    atoms = of_family("crystal")
    shifted = Shifted(graded, {3: -1.0})
    assert torch.equal(predict(shifted.bare().eval(), atoms).energy, predict(shifted, atoms).energy)
    assert not any(isinstance(module, Graded) for module in shifted.bare().modules())


def test_a_committee_has_the_largest_grade_of_its_members(graded, small, train):
    other = Graded(small, active_sets(small, train[:3])).eval()
    grades = [predict(one, train[5]).gamma for one in (graded, other)]
    assert torch.equal(predict(Committee([graded, other]), train[5]).gamma, torch.stack(grades).amax(dim=0))
    assert predict(Committee([graded, small]), train[5]).gamma is None


def test_nothing_to_choose_from_is_refused(small, train):
    with pytest.raises(InputError, match="no frames"):
        active_sets(small, [])
    with pytest.raises(InputError, match="more than 1"):
        active_sets(small, train[:1], tolerance=1.0)
    with pytest.raises(InputError, match="no active set"):
        Graded(CHGNet.tiny(), {})


def test_a_search_that_is_cut_short_is_told(small, train, monkeypatch):
    monkeypatch.setattr(grading, "PASSES", 1)
    with pytest.warns(UserWarning, match="MaxVol has not come to an end in 1 passes"):
        active_sets(small, train)


@pytest.fixture(scope="module")
def cored(train):
    """An expansion with core repulsion, graded by frames whose closest pairs are outside of it."""
    torch.manual_seed(0)
    potential = ACE(["Li", "P", "S"], nmax=[3, 1], lmax=[0, 2], functions=None, cutoff=5.0, core={}).eval()
    torch.nn.init.normal_(potential.coefficients)
    return Graded(potential, active_sets(potential, train)).eval()


def pair(r):
    return Atoms("PS", [[0, 0, 0], [r, 0, 0]])


def test_gamma_is_infinite_within_the_core_and_finite_and_continuous_outside(cored):
    begin, end = cored.core_distances()[15, 16]
    assert begin == pytest.approx(0.75 * (covalent_radii[15] + covalent_radii[16]))
    assert end == pytest.approx(begin - 0.3)
    begin = cored.cores[15, 16]
    for r in (0.3 * begin, 0.64, 1.0, end, begin - 1e-3):
        assert torch.isinf(predict(cored, pair(r)).gamma).all()
    scan = np.arange(begin + 1e-3, 4.0, 0.05)
    gamma = np.array([predict(cored, pair(r)).gamma.numpy() for r in scan])
    assert np.isfinite(gamma).all()
    assert np.abs(np.diff(gamma, axis=0)).max() < 0.3
    close_pair = Atoms("PSLi", [[0, 0, 0], [1.0, 0, 0], [0, 3.0, 0]])
    assert torch.isinf(predict(cored, close_pair).gamma).tolist() == [True, True, False]


def test_training_frames_that_reach_into_the_core_are_interpolation_until_nothing_fitted_is_left(cored, train):
    begin, end = cored.core_distances()[15, 16]
    potential = cored.potential
    closer = 0.5 * (begin + end)
    again = Graded(potential, active_sets(potential, [*train, pair(closer), pair(end - 0.1)])).eval()
    assert again.cores[15, 16] == pytest.approx(end)
    again = Graded(potential, active_sets(potential, [*train, pair(closer)])).eval()
    assert again.cores[15, 16] == pytest.approx(closer, abs=1e-3)
    assert predict(again, pair(closer)).gamma.max() <= TOLERANCE
    assert torch.isinf(predict(again, pair(closer - 0.01)).gamma).all()


def test_the_core_is_seen_through_wrappers_committees_and_checkpoints(cored, small, train, tmp_path):
    other = Graded(small, active_sets(small, train)).eval()
    outer = Shifted(cored, {3: -1.0})
    finetune.save(outer, tmp_path / "graded.pt")
    again = models.load(tmp_path / "graded.pt")
    assert again.potential.cores == pytest.approx(cored.cores)
    whole = Committee([small, cored.potential])
    for graded in (outer, again, Committee([cored, other]), Graded(whole, active_sets(whole, train)).eval()):
        assert torch.isinf(predict(graded, pair(1.0)).gamma).all()
        assert torch.isfinite(predict(graded, train[0]).gamma).all()
    assert torch.isfinite(predict(other, pair(1.0)).gamma).all()  # without core repulsion


def test_an_infinite_grade_stops_dynamics_and_is_not_harvested(cored):
    atoms = Atoms("PS", [[0, 0, 0], [1.2, 0, 0]], cell=[12, 12, 12], pbc=True)
    atoms.calc = finetune.calculator(cored, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        atoms.get_forces()
    assert np.isinf(atoms.calc.results["gamma"]).all()
    alarm = Extrapolating().check(Snapshot(atoms), None)
    assert alarm.atoms == [0, 1]
    assert "inf" in alarm.message
    kept, counts = harvest(
        [atoms], atoms.calc, Thresholds(score="gamma"), Limits(closest=0.1, sparsest_A3=1e4, force=1e9)
    )
    assert kept == []
    assert counts["beyond"] == 1
