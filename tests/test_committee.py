"""A committee says the mean of its members and how far they differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import finetune
from finetune import models
from finetune.adapting import Shifted
from finetune.backbones.ace import ACE
from finetune.backbones.chgnet import CHGNet
from finetune.backbones.mace import MACE
from finetune.committee import Committee
from finetune.data.reading import read
from finetune.errors import InputError
from finetune.evaluation import evaluate

from .contract import predict
from .structures import ROOT, of_family
from .tolerances import close


@pytest.fixture
def members():
    torch.manual_seed(0)
    return [Shifted(CHGNet.tiny(), {3: -1.0}).eval(), MACE.tiny().eval(), ACE.tiny().eval()]


def test_mean_and_standard_deviation_of_the_members(members):
    structures = [of_family("amorphous"), of_family("crystal")]
    said = [predict(member, *structures) for member in members]
    together = predict(Committee(members), *structures)
    for name in ("energy", "forces", "stress"):
        close(getattr(together, name), np.mean([getattr(one, name) for one in said], axis=0), "identity, float32")
    for name in ("energy", "forces"):
        expected = np.std([getattr(one, name) for one in said], axis=0, ddof=1)
        close(getattr(together, name + "_std"), expected, "identity, float32")
        assert expected.max() > 1e-3


def test_the_calculator_tells_the_spread(members):
    atoms = of_family("interface")
    atoms.calc = finetune.calculator(members, device="cpu")
    expected = predict(Committee(members), atoms)
    close(atoms.get_potential_energy(), expected.energy[0], "identity, float64")
    close(atoms.calc.results["energy_std"], expected.energy_std[0], "identity, float64")
    close(atoms.calc.results["forces_std"], expected.forces_std, "identity, float64")
    single = finetune.calculator(members[0], device="cpu")
    single.calculate(atoms)
    assert not {"energy_std", "forces_std"} & single.results.keys()


def test_a_committee_is_one_file(members, tmp_path):
    committee = Committee(members)
    finetune.save(committee, tmp_path / "committee.pt")
    again = models.load(tmp_path / "committee.pt")
    atoms = of_family("amorphous")
    assert torch.equal(predict(again, atoms).forces, predict(committee, atoms).forces)
    assert again.kind == committee.kind == "CHGNet + MACE + ACE"


def test_names_of_several_models_are_a_committee(tmp_path, members):
    for k, member in enumerate(members):
        finetune.save(member, tmp_path / f"{k}.pt")
    files = [tmp_path / f"{k}.pt" for k in range(3)]
    assert isinstance(finetune.calculator(files, device="cpu").potential, Committee)


def test_one_member_is_no_committee(members):
    with pytest.raises(InputError, match="two members or more, not 1"):
        Committee(members[:1])


def test_members_see_what_their_own_cutoff_shows(members):
    committee = Committee(members)
    assert committee.cutoff == max(member.cutoff for member in members)
    assert len({member.cutoff for member in members}) > 1
    graph = committee.graph(of_family("crystal"))
    counts = [int(graph[f"{k}.n_edges"]) for k in range(3)]
    assert counts == [int(member.graph(of_family("crystal"))["n_edges"]) for member in members]


def test_a_committee_is_evaluated_like_a_model(members):
    known = read(ROOT / "data/starting/valid.extxyz")[:4]
    together = evaluate(Committee(members), known, progress=False)
    alone = [predict(Committee(members), frame.atoms) for frame in known]
    for name in ("energy", "forces", "energy_std", "forces_std"):
        expected = torch.cat([getattr(one, name) for one in alone])
        close(getattr(together.predicted, name), expected, "identity, float32")
