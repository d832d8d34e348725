"""MACE (arXiv 2206.07697; foundation models arXiv 2401.00096): translation in and out of `mace-torch`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers as number_of
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor, nn

from finetune.backbones import _mace_lammps
from finetune.backbones._mace_models import (
    BACKENDS,
    NAMES,
    NON_COMMERCIAL,
    URLS,
    accelerate,
    build,
    cut,
    default_dtype,
    foundation_model,
    licence_of,
    o3,
    plain,
    single_head,
)
from finetune.errors import InputError, unknown
from finetune.graph import Graph
from finetune.potential import Exported, Potential, Tap


class MACE(Potential):
    """MACE, an equivariant message-passing network of atomic cluster expansions.

    Args:
        foundation: `mini` (shipped), a name of mace-torch's foundation models (`medium-mpa-0`, `small`, `mh-1`, ...;
            downloaded once by mace), the path of a `.model` file, or null for random weights in the given architecture.
        head: the head of a multi-head foundation to keep; needed where there are several.
        elements: chemical symbols to keep of the foundation's element table, or null to keep them all.
        architecture: arguments of `mace.modules.ScaleShiftMACE` in plain types; only where `foundation` is null.
        dtype: `float32` or `float64`.
        backend: `e3nn`, or `cueq` (cuEquivariance) or `oeq` (OpenEquivariance) where installed.
        trusted: a `.model` file is a pickle, and reading one runs code that its author chose; true says you trust it.
    """

    formats = ("lammps", "mliap")
    groups = {  # noqa: RUF012
        "embedding": ("model.node_embedding", "model.radial_embedding", "model.joint_embedding"),
        "interactions": ("model.interactions", "model.products"),
        "readouts": ("model.readouts", "model.embedding_readout"),
    }

    def __init__(
        self,
        foundation: str | None = "mini",
        head: str | None = None,
        elements: Sequence[str] | None = None,
        architecture: dict[str, Any] | None = None,
        dtype: str = "float32",
        backend: str = "e3nn",
        trusted: bool = False,
    ) -> None:
        super().__init__()
        self.model: Any
        self.rows: Tensor
        if backend not in BACKENDS:
            raise unknown("MACE backend", backend, BACKENDS)
        if foundation is not None and architecture is not None:
            raise InputError("architecture goes with foundation: null only; leave one of them out")
        with default_dtype(getattr(torch, dtype)):
            model = build(architecture or {}) if foundation is None else foundation_model(foundation, trusted)
            model = single_head(model.to(getattr(torch, dtype)), head)
            if elements is not None:
                model = cut(model, sorted(number_of[symbol] for symbol in elements))
            self.architecture, self.backend = plain(model), backend
            self.model = accelerate(model, backend)
        self.licence = licence_of(foundation) if foundation in NAMES else "see the foundation model's card"
        if foundation in URLS and self.licence == NON_COMMERCIAL:
            warnings.warn(f"mace:{foundation} is under the {NON_COMMERCIAL}; so is what is tuned from it", stacklevel=2)
        self.pretrained = foundation is not None
        self.cutoff = float(self.model.r_max)
        self.elements = frozenset(int(z) for z in self.model.atomic_numbers)
        rows = torch.full((120,), -1)
        rows[self.model.atomic_numbers] = torch.arange(len(self.model.atomic_numbers))
        self.register_buffer("rows", rows, persistent=False)
        self.model.requires_grad_(True)

    def export(self, format: str, path: Path, references: Mapping[int, float] | None = None) -> Exported:
        """Write the model in double precision for LAMMPS: `lammps` for pair_style mace, `mliap` for ML-IAP."""
        if format not in self.formats:
            raise self.no_format(format, self.formats)
        if self.backend != "e3nn":
            raise InputError(f"a model on {self.backend} cannot be exported; load it with backend e3nn")
        model = _mace_lammps.with_references(self.model, references or {})
        symbols = [chemical_symbols[int(z)] for z in model.atomic_numbers]
        if format == "mliap":
            _mace_lammps.write_mliap(model, path)
            return Exported(symbols, f"mliap unified {path.name} 0", f"* * {' '.join(symbols)}")
        _mace_lammps.write_torchscript(model, path)
        return Exported(symbols, "mace no_domain_decomposition", f"* * {path.name} {' '.join(symbols)}")

    def energies(self, graph: Graph) -> tuple[Tensor, Tensor, None]:
        """Energies per structure and per atom (eV); MACE has no magnetic moments."""
        out = self.model(self._translate(graph), training=self.training, compute_force=False)
        per_atom = out["node_energy"].double()
        energy = per_atom.new_zeros(len(graph["n_atoms"])).index_add(0, graph["batch"], per_atom)
        return energy, per_atom, None

    def _translate(self, graph: Graph) -> dict[str, Tensor]:
        """Mace's own dictionary; edge vectors enter as shifts between atoms at the origin."""
        numbers, batch = graph["numbers"], graph["batch"]
        counts = graph["n_atoms"]
        return {
            "positions": numbers.new_zeros(len(numbers), 3, dtype=self.dtype),
            "shifts": graph["vectors"].to(self.dtype),
            "unit_shifts": graph["shifts"].to(self.dtype),
            "cell": graph["cell"].reshape(-1, 3).to(self.dtype),
            "edge_index": graph["edge_index"],
            "node_attrs": nn.functional.one_hot(self.rows[numbers], len(self.elements)).to(self.dtype),
            "batch": batch,
            "ptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            "head": torch.zeros_like(counts),
        }

    def taps(self) -> list[Tap]:
        """The scalars that enter the linear map of each readout."""
        taps = []
        for readout in self.model.readouts:
            linear = readout.linear if hasattr(readout, "linear") else readout.linear_2
            scalars = o3.Irreps(str(linear.irreps_in)).count("0e")
            taps.append(Tap(linear, partial(_first_columns, scalars)))
        return taps

    def descriptors(self, graph: Graph) -> Float[Tensor, "atoms d"]:
        """Scalars that enter the linear maps of all readouts; site energies (less any ZBL) are linear in them."""
        return self._from_taps(graph)

    def config(self) -> dict[str, Any]:
        """`class_path` and `init_args` that rebuild the architecture."""
        dtype = str(self.dtype).removeprefix("torch.")
        arguments = {"foundation": None, "architecture": self.architecture, "dtype": dtype, "backend": self.backend}
        return {"class_path": "finetune.backbones.mace.MACE", "init_args": arguments}

    @classmethod
    def named(cls, name: str, trusted: bool = False) -> MACE:
        """`mace:mini`, `mace:NAME`, `mace:PATH.model` (`trusted`); `@HEAD` behind it names one of several heads."""
        name, _, head = name.partition("@")
        return cls(name or "mini", head=head or None, trusted=trusted)

    @classmethod
    def names(cls) -> dict[str, str]:
        """Known names and the licence of each."""
        return {"mini": "MIT", **{name: licence_of(name) for name in URLS}}

    @classmethod
    def tiny(cls) -> MACE:
        """Two narrow layers for Li, P, S with random weights."""
        return cls(None, architecture=TINY, dtype="float64")


def _first_columns(n: int, given: tuple[Any, ...], said: Any) -> Tensor:
    """The first n features of what a module is given."""
    features: Tensor = given[0]
    return features[:, :n]


TINY = {
    "r_max": 4.5,
    "num_bessel": 4,
    "num_polynomial_cutoff": 5,
    "max_ell": 2,
    "interaction_cls": "RealAgnosticResidualInteractionBlock",
    "interaction_cls_first": "RealAgnosticResidualInteractionBlock",
    "num_interactions": 2,
    "hidden_irreps": "4x0e + 4x1o",
    "MLP_irreps": "4x0e",
    "gate": "silu",
    "atomic_energies": [[-1.0, -4.0, -3.0]],
    "avg_num_neighbors": 20.0,
    "atomic_numbers": [3, 15, 16],
    "correlation": 2,
    "radial_MLP": [8, 8],
    "atomic_inter_scale": 1.0,
    "atomic_inter_shift": 0.0,
}
