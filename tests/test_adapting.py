"""Reference energies, frozen groups and learning-rate factors."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from ase import Atoms

from finetune import models
from finetune.adapting import Shifted, freeze_unused, group_of, parameter_groups
from finetune.errors import InputError
from finetune.potential import Potential
from finetune.training.closed_form import ClosedForm

from .commands import THEIR_WARNINGS
from .contract import built, predict
from .structures import lithium, of_family, sulphide
from .tolerances import close

REFERENCES = {3: -1.5, 15: 0.75, 16: 2.25}


@pytest.fixture(params=models.backbones())
def tiny(request: pytest.FixtureRequest) -> Iterator[Potential]:
    """Each backbone with random weights, in double precision, and free again after the test."""
    potential = built(request.param)
    free = {name: p.requires_grad for name, p in potential.named_parameters()}
    yield potential
    for name, parameter in potential.to(torch.float64).named_parameters():
        parameter.requires_grad_(free[name])


def test_reference_energies_shift_energies_by_composition_and_nothing_else(tiny):
    atoms = [of_family("amorphous"), sulphide(), lithium()]
    plain, shifted = predict(tiny, *atoms), predict(Shifted(tiny, REFERENCES), *atoms)
    expected = [sum(REFERENCES[z] for z in a.numbers.tolist()) for a in atoms]
    close(shifted.energy - plain.energy, expected, "identity, float64")
    per_atom = [REFERENCES[z] for a in atoms for z in a.numbers.tolist()]
    close(shifted.energies - plain.energies, per_atom, "identity, float64")
    close(shifted.forces, plain.forces, "identity, float64")
    close(shifted.stress, plain.stress, "identity, float64")
    graph = tiny.collate([tiny.graph(a) for a in atoms])
    assert torch.equal(Shifted(tiny, REFERENCES).descriptors(graph), tiny.descriptors(graph))


def test_reference_energies_accumulate_and_leave_other_elements_alone(tiny):
    shifted = Shifted(tiny, {3: 1.0})
    shifted.add({3: 0.5, 16: -2.0})
    assert shifted.references[3] == 1.5
    assert shifted.references[16] == -2.0
    assert shifted.references.count_nonzero() == 2


@pytest.mark.filterwarnings("ignore:.torch.jit.(save|load). is deprecated")
def test_reference_energies_keep_double_precision(tiny):
    shifted = Shifted(copy.deepcopy(tiny), {3: -7.123456789012345}).to(torch.float32)
    assert shifted.dtype == torch.float32
    assert shifted.references[3].item() == -7.123456789012345


def test_a_shifted_potential_has_what_the_one_underneath_has(tiny):
    shifted = Shifted(tiny)
    assert (shifted.cutoff, shifted.elements, shifted.licence) == (tiny.cutoff, tiny.elements, tiny.licence)
    assert {n: group_of(shifted, f"potential.{n}") for n, _ in tiny.named_parameters()} == {
        n: group_of(tiny, n) for n, _ in tiny.named_parameters()
    }
    with pytest.raises(InputError, match="does not know Og"):
        shifted.graph(Atoms("Og"))


def test_every_free_parameter_is_optimised_once_at_the_rate_of_its_group(tiny):
    slow = next(iter(tiny.groups))
    groups = parameter_groups(tiny, 1e-3, {slow: 0.1, "readouts": 2.0})
    rates = {**dict.fromkeys(tiny.groups, 1e-3), slow: 1e-4, "readouts": 2e-3}
    assert {group["name"]: group["lr"] for group in groups} == pytest.approx(rates)
    chosen = [id(p) for group in groups for p in group["params"]]
    assert sorted(chosen) == sorted(id(p) for p in tiny.parameters() if p.requires_grad)


def test_a_factor_of_zero_freezes_a_group(tiny):
    groups = parameter_groups(tiny, 1e-3, {name: 0.0 for name in tiny.groups if name != "readouts"})
    assert [group["name"] for group in groups] == ["readouts"]
    free = {group_of(tiny, name) for name, p in tiny.named_parameters() if p.requires_grad}
    assert free == {"readouts"}


def test_unknown_groups_and_impossible_factors_are_refused(tiny):
    with pytest.raises(InputError, match="unknown parameter group 'readout'; did you mean 'readouts'"):
        parameter_groups(tiny, 1e-3, {"readout": 0.0})
    with pytest.raises(InputError, match=r"factor of readouts is -1\.0"):
        parameter_groups(tiny, 1e-3, {"readouts": -1.0})
    with pytest.raises(InputError, match="nothing is left to train"):
        parameter_groups(tiny, 1e-3, dict.fromkeys([*tiny.groups, "other"], 0.0))


def test_parameters_that_no_loss_needs_can_be_frozen():
    potential = models.backbone("chgnet").tiny()
    freeze_unused(potential, magmoms=False)  # magnetic moments
    frozen = {name for name, p in potential.named_parameters() if not p.requires_grad}
    assert any("site_wise" in name for name in frozen)
    assert {group_of(potential, name) for name in frozen} == {"readouts", "interactions", "other"}


@THEIR_WARNINGS
def test_an_anchor_takes_weights_a_share_of_the_way_back(tiny):
    from finetune.training.module import FineTune

    slow, still = "readouts", next(name for name in tiny.groups if name != "readouts")
    factors = {slow: 0.5, still: 0.0}
    module = FineTune(copy.deepcopy(tiny), anchor=2.0, groups=factors, optimizer=partial(torch.optim.SGD, lr=0.1))
    optimizer = module.configure_optimizers()
    begun = {name: parameter.detach().clone() for name, parameter in module.potential.named_parameters()}
    with torch.no_grad():
        for parameter in module.potential.parameters():
            parameter.add_(1.0)
    module._pull(optimizer)
    named = {id(parameter): name for name, parameter in module.potential.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            expected = begun[named[id(parameter)]] + 1 - (0.1 if group["name"] == slow else 0.2)
            torch.testing.assert_close(parameter.detach(), expected)
    frozen = [p for p in module.potential.parameters() if not p.requires_grad]
    assert frozen
    assert all(torch.equal(p, begun[named[id(p)]] + 1) for p in frozen)


@THEIR_WARNINGS
@pytest.mark.parametrize("settings", [{"anchor": -1.0}, {"anchor": 1.0, "solve": ClosedForm()}])
def test_an_anchor_that_makes_no_sense_is_refused(tiny, settings):
    from finetune.training.module import FineTune

    with pytest.raises(InputError, match=r"anchor is the pull back to the foundation, 0 or more.*got"):
        FineTune(copy.deepcopy(tiny), **settings)
