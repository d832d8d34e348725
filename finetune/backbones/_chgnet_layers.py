"""CHGNet's layers: the weights and results of the `chgnet` package, in less work.

Upstream joins, for every directed edge, the features of two atoms and of their bond, and multiplies the joined row by
one matrix. That product is the sum of the products of its parts, so each part is multiplied here once for each atom and
each bond, and per edge only the sums are left: a sixth of the multiplications of that step, and likewise for angles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Dropout
from torch.nn.functional import linear

from finetune.errors import InputError

Part = tuple[Tensor, Tensor | None]  # features, and the row of them that each row of the result takes (None: its own)


@dataclass(frozen=True)
class Features:
    """What the layers read of a batch.

    Attributes:
        numbers: atomic numbers, shape (atoms).
        centre, neighbour: atoms of each directed edge.
        bond: undirected bond of each directed edge.
        bonds: radial basis of each undirected bond within the cutoff of atoms.
        short: undirected bonds that make angles.
        short_bonds: radial basis, with the cutoff of bonds, of the short ones.
        first, second: rows of `short` of both bonds of each angle.
        corner: atom at the centre of each angle.
        angles: Fourier basis of each angle.
    """

    numbers: Tensor
    centre: Tensor
    neighbour: Tensor
    bond: Tensor
    bonds: Tensor
    short: Tensor
    short_bonds: Tensor
    first: Tensor
    second: Tensor
    corner: Tensor
    angles: Tensor


def check(model: Any) -> None:
    """Raise `InputError` where a CHGNet has what is not rebuilt here."""
    if not model.mlp_first:
        raise InputError("this CHGNet checkpoint averages before its readout, so atoms have no energies; unsupported")
    if any(module.p > 0 for module in model.modules() if isinstance(module, Dropout)):
        raise InputError("this CHGNet checkpoint was made with dropout, which is unsupported; its layers would differ")


def site_energies(model: Any, given: Features) -> tuple[Tensor, Tensor]:
    """Energies (eV, without those of the composition) and absolute magnetic moments (Bohr magnetons) of the atoms."""
    atoms = model.atom_embedding(given.numbers - 1)
    bonds, weights = model.bond_embedding(given.bonds), model.bond_weights_ag(given.bonds)
    angles, short_weights = None, None
    if len(given.angles):
        angles, short_weights = model.angle_embedding(given.angles), model.bond_weights_bg(given.short_bonds)
    last = model.n_conv - 2
    magmoms = atoms.new_zeros(len(atoms))
    layers = zip(model.atom_conv_layers[:-1], model.bond_conv_layers, model.angle_layers, strict=False)
    for k, (atom_layer, bond_layer, angle_layer) in enumerate(layers):
        atoms = convolve_atoms(atom_layer, atoms, bonds, weights, given)
        if angles is not None and short_weights is not None and bond_layer is not None:
            bonds = convolve_bonds(bond_layer, atoms, bonds, angles, short_weights, given)
            if angle_layer is not None and k < last:  # nothing reads the angles after the last bonds
                angles = update_angles(angle_layer, atoms, bonds, angles, given)
        if k == last:
            magmoms = model.site_wise(atoms).abs().view(-1)
    atoms = convolve_atoms(model.atom_conv_layers[-1], atoms, bonds, weights, given)
    if model.readout_norm is not None:
        atoms = model.readout_norm(atoms)
    return model.mlp(atoms).squeeze(1), magmoms


def convolve_atoms(layer: Any, atoms: Tensor, bonds: Tensor, weights: Tensor, given: Features) -> Tensor:
    """New features of the atoms, from messages over directed edges weighted by bond length."""
    parts: list[Part] = [(atoms, given.centre), (bonds, given.bond), (atoms, given.neighbour)]
    messages = gated(layer.twoBody_atom, parts) * weights.index_select(0, given.bond)
    summed = atoms.new_zeros(atoms.shape).index_add(0, given.centre, messages)
    return _finished(layer, summed, atoms, layer.atom_norm)


def convolve_bonds(
    layer: Any, atoms: Tensor, bonds: Tensor, angles: Tensor, weights: Tensor, given: Features
) -> Tensor:
    """New features of the undirected bonds, from messages over the angles that they make."""
    messages = gated(layer.twoBody_bond, _of_angles(atoms, bonds, angles, given))
    messages = messages * weights.index_select(0, given.first) * weights.index_select(0, given.second)
    summed = bonds.new_zeros(bonds.shape).index_add(0, given.short[given.first], messages)
    return _finished(layer, summed, bonds, layer.bond_norm)


def update_angles(layer: Any, atoms: Tensor, bonds: Tensor, angles: Tensor, given: Features) -> Tensor:
    """New features of the angles."""
    new: Tensor = gated(layer.twoBody_bond, _of_angles(atoms, bonds, angles, given))
    if layer.resnet:
        new = new + angles
    return new if layer.angle_norm is None else layer.angle_norm(new)


def _of_angles(atoms: Tensor, bonds: Tensor, angles: Tensor, given: Features) -> list[Part]:
    """Features of both bonds, the angle itself and the atom at its centre; of the bonds only those that make angles."""
    short = bonds.index_select(0, given.short)
    return [(short, given.first), (short, given.second), (angles, None), (atoms, given.corner)]


def gated(module: Any, parts: Sequence[Part]) -> Tensor:
    """The gated perceptron of joined features: act(core(x)) * sigmoid(gate(x)), x the parts side by side."""
    core, gate = ([layer for layer in mlp.layers if not isinstance(layer, Dropout)] for mlp in _halves(module))
    weight = torch.cat([core[0].weight, gate[0].weight])
    bias = torch.cat([core[0].bias, gate[0].bias])
    total, start = None, 0
    for features, rows in parts:
        columns = weight[:, start : start + features.shape[1]]
        start += features.shape[1]
        product = linear(features, columns, bias if total is None else None)
        product = product if rows is None else product.index_select(0, rows)
        total = product if total is None else total + product
    assert total is not None
    x, y = total.chunk(2, dim=1)
    for layer in core[1:]:
        x = layer(x)
    for layer in gate[1:]:
        y = layer(y)
    if module.norm is not None:
        x, y = module.bn1(x), module.bn2(y)
    result: Tensor = module.activation(x) * module.sigmoid(y)
    return result


def _halves(module: Any) -> tuple[Any, Any]:
    return module.mlp_core, module.mlp_gate


def _finished(layer: Any, summed: Tensor, before: Tensor, norm: Any) -> Tensor:
    """What comes after the sum of the messages: a linear layer, the features of before, a norm."""
    new = layer.mlp_out(summed) if layer.use_mlp_out else summed
    new = new + before if layer.resnet else new
    finished: Tensor = new if norm is None else norm(new)
    return finished
