"""CHGNet (Deng et al., 10.1038/s42256-023-00716-3): translation in and out of the `chgnet` package."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from chgnet import model as upstream
from jaxtyping import Float
from torch import Tensor

from finetune.backbones import _chgnet_layers
from finetune.backbones._chgnet_layers import Features
from finetune.errors import InputError, unknown
from finetune.files import whole
from finetune.graph import Graph, edge_vectors
from finetune.potential import Exported, Potential, Tap

PRETRAINED = {
    "0.3.0": "0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
    "0.2.0": "0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar",
    "r2scan": "r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
}

COMPOSITION = "composition_model.fc.weight"

# MPtrj, the training set, covers 89 elements: 1 to 94 but Po, At, Rn, Fr and Ra (doi 10.1038/s42256-023-00716-3).
# Weights of the others are as they were initialised; the reference energies of the r2SCAN weights are 0 for them.
MPTRJ = frozenset(range(1, 95)) - {84, 85, 86, 87, 88}
# The r2SCAN set of the transfer learning has no Yb either: its reference energy in those weights is exactly 0.
TRAINED = {"0.3.0": MPTRJ, "0.2.0": MPTRJ, "r2scan": MPTRJ - {70}}


class CHGNet(Potential):
    """CHGNet, a charge-informed graph network with atom, bond and angle features.

    Its energies contain the Materials Project's MP2020 corrections; refitted reference energies take them up.

    Args:
        foundation: `0.3.0`, `0.2.0` or `r2scan` (weights shipped with the chgnet package), the path of another chgnet
            checkpoint, or null for random weights in the given architecture.
        architecture: arguments of `chgnet.model.CHGNet`; only used, and only allowed, where `foundation` is null.
        dtype: `float32` or `float64`.
    """

    licence = "BSD-3-Clause-LBNL (weights in the chgnet package)"
    elements = frozenset(range(1, 95))
    formats = ("chgnet",)
    formats_note = "LAMMPS has no CHGNet: run it by finetune md or any script of ASE"
    groups = {  # noqa: RUF012
        "embedding": (
            "model.atom_embedding",
            "model.bond_basis_expansion",
            "model.bond_embedding",
            "model.bond_weights",
            "model.angle_basis",
            "model.angle_embedding",
        ),
        "interactions": ("model.atom_conv_layers", "model.bond_conv_layers", "model.angle_layers"),
        "readouts": ("model.site_wise", "model.readout_norm", "model.mlp"),
    }
    offsets = {  # noqa: RUF012
        "directed2undirected": "undirected2directed",
        "undirected2directed": "shifts",
        "angle_edges": "shifts",
    }

    def __init__(
        self,
        foundation: str | None = "0.3.0",
        architecture: dict[str, Any] | None = None,
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        self.model: Any
        state: dict[str, Tensor] | None = None
        if foundation is not None:
            if architecture is not None:
                raise InputError("architecture goes with foundation: null only; leave one of them out")
            architecture, state = _read(foundation)
        self.architecture = dict(architecture or {})
        with contextlib.redirect_stdout(io.StringIO()):  # the constructor prints
            self.model = upstream.CHGNet(**self.architecture)
        if state is not None:
            self.model.load_state_dict(state)
        _chgnet_layers.check(self.model)
        # what comes after the last bond convolution has no part in the energy
        self.idle = (f"model.angle_layers.{self.model.n_conv - 2}.",)
        self.only_magmoms = ("model.site_wise.",)
        self.cutoff = float(self.model.graph_converter.atom_graph_cutoff)
        self.bond_cutoff = float(self.model.graph_converter.bond_graph_cutoff)
        self.pretrained = foundation is not None
        self.trained_elements = None if foundation is None else TRAINED.get(foundation)
        self.to(getattr(torch, dtype))

    def export(self, format: str, path: Path, references: Mapping[int, float] | None = None) -> Exported | None:
        """Write a file that `chgnet.model.CHGNet.from_file` reads, reference energies in its composition model."""
        if format not in self.formats:
            raise self.no_format(format, self.formats)
        if self.model.composition_model is None:
            raise InputError("this CHGNet has no composition model for the reference energies; keep it as a checkpoint")
        state = {name: value.detach().cpu().float().clone() for name, value in self.model.state_dict().items()}
        for number, energy in (references or {}).items():
            if number <= state[COMPOSITION].shape[1]:
                state[COMPOSITION][0, number - 1] += energy
        with whole(path) as partial:
            torch.save({"model": {"model_args": self.architecture, "state_dict": state}}, partial)
        return None

    def completed(self, graph: Graph) -> Graph:
        """Atom graph within 6 Å, undirected bonds, and the angles between bonds shorter than 3 Å."""
        undirected = torch.arange(graph["edge_index"].shape[1] // 2, device=graph["edge_index"].device)
        return {
            **graph,
            "directed2undirected": undirected.repeat(2),
            "undirected2directed": undirected,
            "angle_edges": _angles(graph, self.bond_cutoff),
        }

    def energies(self, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
        """Energies per structure and per atom (eV) and absolute magnetic moments (Bohr magnetons)."""
        numbers, batch = graph["numbers"], graph["batch"]
        per_atom, magmoms = _chgnet_layers.site_energies(self.model, self._featurise(graph))
        per_atom = per_atom.double()
        if self.model.composition_model is not None:
            per_atom = per_atom + self.model.composition_model.fc.weight[0, numbers - 1]
        energy = per_atom.new_zeros(len(graph["n_atoms"])).index_add(0, batch, per_atom)
        return energy, per_atom, magmoms

    def _featurise(self, graph: Graph) -> Features:
        """Bases of bonds and angles, from the double precision geometry."""
        vectors = graph["vectors"]
        lengths = vectors.norm(dim=1)
        bonds = lengths[graph["undirected2directed"]]
        units = vectors / lengths[:, None]
        bond, (first, second) = graph["directed2undirected"], graph["angle_edges"].T
        cosines = (units[first] * units[second]).sum(dim=1) * (1 - 1e-6)  # as upstream, keeps acos differentiable
        short, rows = torch.unique(bond[torch.stack([first, second])], return_inverse=True)
        radial, angular = self.model.bond_basis_expansion, self.model.angle_basis_expansion
        return Features(
            numbers=graph["numbers"],
            centre=graph["edge_index"][0],
            neighbour=graph["edge_index"][1],
            bond=bond,
            bonds=radial.rbf_expansion_ag(bonds).to(self.dtype),
            short=short,
            short_bonds=radial.rbf_expansion_bg(bonds[short]).to(self.dtype),
            first=rows[0],
            second=rows[1],
            corner=graph["edge_index"][0][first],
            angles=angular.fourier_expansion(cosines.acos().to(self.dtype)),
        )

    def taps(self) -> list[Tap]:
        """The input of the last linear layer of the readout."""
        return [Tap(self.model.mlp.layers[-1], lambda given, _: given[0])]

    def descriptors(self, graph: Graph) -> Float[Tensor, "atoms d"]:
        """Activations before the last linear layer of the readout: the site energy is linear in them, per element."""
        return self._from_taps(graph)

    def config(self) -> dict[str, Any]:
        """`class_path` and `init_args` that rebuild the architecture."""
        dtype = str(self.dtype).removeprefix("torch.")
        arguments = {"foundation": None, "architecture": self.architecture, "dtype": dtype}
        return {"class_path": "finetune.backbones.chgnet.CHGNet", "init_args": arguments}

    @classmethod
    def named(cls, name: str, trusted: bool = False) -> CHGNet:
        """`chgnet:0.3.0`, `chgnet:0.2.0`, `chgnet:r2scan` or `chgnet:PATH` of a chgnet checkpoint."""
        return cls(name or "0.3.0")

    @classmethod
    def names(cls) -> dict[str, str]:
        """Known names and the licence of each."""
        return dict.fromkeys(PRETRAINED, cls.licence)

    @classmethod
    def tiny(cls) -> CHGNet:
        """Two thin layers with random weights."""
        widths = dict.fromkeys(("atom_fea_dim", "bond_fea_dim", "angle_fea_dim"), 8)
        hidden = dict.fromkeys(("atom_conv_hidden_dim", "bond_conv_hidden_dim"), 8)
        sizes = {"num_radial": 5, "num_angular": 5, "n_conv": 2, "mlp_hidden_dims": [8, 8], "cutoff_coeff": 8}
        return cls(None, {**widths, **hidden, **sizes, "atom_graph_cutoff": 5, "composition_model": "MPtrj"}, "float64")


def _angles(graph: Graph, cutoff: float) -> Tensor:
    """Ordered pairs of distinct directed edges shorter than `cutoff` that leave the same atom, shape (angles, 2)."""
    centres = graph["edge_index"][0]
    short = (edge_vectors(graph).square().sum(dim=1) < cutoff**2).nonzero()[:, 0]
    short = short[torch.argsort(centres[short], stable=True)]
    centres = centres[short]
    counts = torch.bincount(centres, minlength=len(graph["numbers"]))
    partners = counts[centres]
    first = torch.arange(len(short), device=short.device).repeat_interleave(partners)
    within = torch.arange(len(first), device=short.device) - (partners.cumsum(0) - partners)[first]
    second = (counts.cumsum(0) - counts)[centres][first] + within
    distinct = first != second
    return torch.stack([short[first[distinct]], short[second[distinct]]], dim=1)


def _read(foundation: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Architecture and weights of a named or stored chgnet checkpoint; nothing in it is executed."""
    if foundation in PRETRAINED:
        path = Path(upstream.__file__).parents[1] / "pretrained" / PRETRAINED[foundation]
    elif os.path.isfile(foundation):
        path = Path(foundation)
    else:
        raise unknown("CHGNet model", foundation, PRETRAINED)
    try:
        model = torch.load(path, map_location="cpu", weights_only=True)["model"]
    except (pickle.UnpicklingError, KeyError, RuntimeError, EOFError) as error:
        raise InputError(f"{path} is not a chgnet checkpoint with plain weights ({error})") from error
    # 0.2.0 was trained with a bias in mlp_out, see the chgnet package's own loader
    biased = any("mlp_out.layers.1.bias" in key for key in model["state_dict"])
    return {**model["model_args"], "mlp_out_bias": biased}, model["state_dict"]
