"""Several readouts on one trunk are several potentials; members of other zeros are brought to one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import finetune
from finetune import models
from finetune.adapting import Shifted
from finetune.backbones.ace import ACE
from finetune.backbones.chgnet import CHGNet
from finetune.committee import Committee
from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.errors import InputError
from finetune.uncertainty import Graded, Shallow, active_sets, aligned, calibrate, readouts, shallow
from finetune.uncertainty.readouts import _readouts, _rows

from .contract import built, predict
from .structures import ROOT, of_family
from .tolerances import close

SPREAD = ("energy", "forces")


def expansion():
    torch.manual_seed(0)
    potential = ACE(["Li", "P", "S"], nmax=[3, 1], lmax=[0, 2], functions=None, cutoff=4.0).eval()
    torch.nn.init.normal_(potential.coefficients, std=0.1)
    return potential


def members_of_expansion(weights):
    """Explicit potentials whose coefficients are those of each member."""
    centred = {z: w - w.mean(dim=1, keepdim=True) for z, w in weights.items()}
    explicit = []
    for k in range(5):
        member = expansion()
        with torch.no_grad():
            for row, z in enumerate((3, 15, 16)):
                member.coefficients[row, 0] += centred[z][:, k]
        explicit.append(member)
    return explicit


def members_of_network(weights):
    """Explicit potentials whose last layer is that of each member, the same for all elements."""
    centred = weights[3] - weights[3].mean(dim=1, keepdim=True)
    explicit = []
    for k in range(5):
        member = copy.deepcopy(built("chgnet"))
        with torch.no_grad():
            member.model.mlp.layers[-1].weight[0] += centred[:, k]
        explicit.append(member)
    return explicit


@pytest.mark.parametrize("kind", ["ace", "chgnet", "shifted ace"])
def test_readouts_on_one_trunk_are_as_many_potentials(kind):
    trunk = built("chgnet") if kind == "chgnet" else expansion()
    width = trunk.descriptors(trunk.collate([trunk.graph(of_family("crystal"))])).shape[1]
    weights = {z: torch.randn(width, 5, dtype=torch.float64) for z in (3, 15, 16)}
    if kind == "chgnet":
        weights = dict.fromkeys(weights, weights[3])
    explicit = Committee((members_of_network if kind == "chgnet" else members_of_expansion)(weights))
    trunk = Shifted(trunk, {3: 1.0}) if kind.startswith("shifted") else trunk
    structures = [of_family("interface"), of_family("amorphous")]
    one, many = predict(Shallow(trunk, weights, forces=True).eval(), *structures), predict(explicit, *structures)
    alone = predict(trunk, *structures)
    for name in SPREAD:
        close(getattr(one, name + "_std"), getattr(many, name + "_std"), "identity, float64")
        close(getattr(one, name), getattr(alone, name), "identity, float64")
    close(alone.forces, many.forces, "identity, float64")
    each = torch.stack([predict(member, *structures).energies for member in explicit.members])
    close(one.energies_std, each.std(dim=0), "identity, float64")
    assert one.forces_std.mean() > 1e-2
    graph = trunk.collate([trunk.graph(atoms) for atoms in structures])
    added = Shallow(trunk, weights).deviations(graph, trunk.descriptors(graph))
    close(added.sum(dim=1), torch.zeros(len(added)), "identity, float64")
    assert predict(Shallow(trunk, weights).eval(), *structures).forces_std is None


@pytest.fixture(scope="module")
def train():
    return read(ROOT / "data/starting/train.extxyz")


@pytest.fixture(scope="module")
def fitted(train):
    return shallow(expansion(), train[:20], np.random.default_rng(0), members=6, directions=3)


def test_readouts_are_least_squares_on_what_was_drawn(rng, monkeypatch):
    monkeypatch.setattr(readouts, "RIDGES", np.array([1e-12, 1.0]))
    design = rng.normal(size=(80, 3))
    truth = np.array([1.0, -2.0, 0.5])
    target = design @ truth + 0.01 * rng.normal(size=80)
    counts = rng.integers(3, size=(4, 80)).astype(float)
    found = _readouts(design, target, counts)
    for drawn, weights in zip(counts, found, strict=True):
        root = np.sqrt(drawn)
        expected = np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0]
        np.testing.assert_allclose(weights, expected, atol=1e-8)
    assert found.std(axis=0).min() > 1e-4


def test_rows_are_what_coefficients_do_to_energies_and_forces(train):
    """A trunk without coefficients and labels of an expansion: its coefficients, times the rows, are the labels."""
    teacher, blank = expansion(), expansion()
    torch.nn.init.zeros_(blank.coefficients)
    frames = []
    for frame in train[:6]:
        said = predict(teacher, frame.atoms)
        given = {"energy": float(said.energy), "forces": said.forces.numpy()}
        frames.append(Frame(frame.atoms, given, "made", frame.index, "made", str(frame.index)))
    truth = teacher.coefficients[:, 0].detach().numpy().ravel()
    design, target, owner = _rows(blank, frames, [3, 15, 16], np.random.default_rng(0), 4, 8000)
    assert owner.tolist() == list(range(6)) * 5
    assert np.abs(target[6:]).max() > 1
    np.testing.assert_allclose((design @ truth)[6:], target[6:], atol=1e-3)
    counts = np.array([[(atoms == z).mean() for z in (3, 15, 16)] for atoms in (f.atoms.numbers for f in frames)])
    beyond = target[:6] - (design @ truth)[:6]  # energies are taken up to reference energies
    np.testing.assert_allclose(counts @ np.linalg.lstsq(counts, beyond, rcond=None)[0], beyond, atol=1e-8)


def test_the_spread_grows_away_from_the_training_frames(fitted, train):
    known = np.concatenate([predict(fitted, frame.atoms).energies_std for frame in train[:5]])
    strange = train[0].atoms.copy()
    strange.rattle(0.4, seed=0)
    assert predict(fitted, strange).energies_std.mean() > 1.5 * known.mean() > 0


def test_readouts_are_stored_and_told_by_the_calculator(fitted, train, tmp_path):
    outer = Graded(fitted, active_sets(fitted, [frame.atoms for frame in train[:4]])).eval()
    finetune.save(outer, tmp_path / "shallow.pt")
    again = models.load(tmp_path / "shallow.pt")
    atoms = train[3].atoms.copy()
    for name in ("energies_std", "energy_std", "gamma"):
        assert torch.equal(getattr(predict(again, atoms), name), getattr(predict(outer, atoms), name))
    atoms.calc = finetune.calculator(tmp_path / "shallow.pt", device="cpu")
    atoms.get_forces()
    close(atoms.calc.results["energies_std"], predict(fitted, atoms).energies_std, "identity, float64")
    assert "forces_std" not in atoms.calc.results
    assert again.bare().config() == expansion().config()


def test_the_spread_of_energies_can_be_calibrated(fitted, train):
    assert calibrate(fitted, train[20:]).score == "energies_std"


def test_the_trunk_is_run_once(fitted, train):
    calls = []
    hook = fitted.potential.products.register_forward_hook(lambda *_: calls.append(1))
    predict(fitted, train[0].atoms)
    first = len(calls)
    predict(fitted.potential, train[0].atoms)
    hook.remove()
    assert len(calls) == 2 * first


def test_members_of_other_zeros_are_brought_to_that_of_the_labels(train):
    trunk = expansion()
    strange = [Shifted(trunk, {3: 5.0, 15: -2.0, 16: 1.0}), Shifted(trunk, {3: -1.0, 16: 3.0}), built("mace")]
    before, after = Committee(strange), Committee(aligned(strange, train))
    atoms = train[0].atoms
    forces = predict(before, atoms).forces
    assert torch.equal(predict(after, atoms).forces, forces)
    pair = Committee(list(after.members)[:2])
    close(predict(pair, atoms).energy_std, np.zeros(1), "closed form")
    assert predict(Committee(strange[:2]), atoms).energy_std > 1
    left = [float(predict(after, f.atoms).energy - f.labels.energy) / len(f.atoms) for f in train]
    assert abs(np.mean(left)) < 0.05
    with pytest.raises(InputError, match="no frame has an energy"):
        aligned(strange, [Frame(atoms, {}, "made", 0, "made", "0")])


def test_mistakes_are_told(train):
    trunk, rng = expansion(), np.random.default_rng(0)
    with pytest.raises(InputError, match="two groups or more"):
        shallow(trunk, train[:1], rng)
    with pytest.raises(InputError, match="two members or more"):
        shallow(trunk, train[:4], rng, members=1)
    with pytest.raises(InputError, match="two members or more"):
        Shallow(CHGNet.tiny(), {3: torch.zeros(8, 1)})
    with pytest.raises(InputError, match="leave out forces"):
        Shallow(Committee([trunk, expansion()]), {3: torch.zeros(8, 2)}, forces=True)
