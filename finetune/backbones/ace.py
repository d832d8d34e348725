"""The atomic cluster expansion (Drautz, 10.1103/PhysRevB.99.014104), linear or with Finnis-Sinclair embedding.

The atomic base of atom i and the invariant functions of it are

    A_i,mu,n,lm = sum_(j of species mu) R_nl(r_ij) Y_lm(r_ij),   R_nl = sum_k c_nlk g_k
    B_i,f       = coupled products of up to four A (`finetune.backbones._ace_basis`)
    E_i         = sum_p F_p(rho_i,p),   rho_i,p = sum_f c_z,p,f B_i,f / s_z,f

with Y_00 = 1; order 1 has the g_k themselves. F_1(rho) = rho, and exponents other than 1 give pacemaker's shifted and
scaled power of rho (`FinnisSinclairShiftedScaled`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from finetune import graph as graphs
from finetune.backbones import _ace_basis, _ace_design, _ace_yace
from finetune.backbones._ace_edges import Edges, Rows
from finetune.backbones._ace_embedding import embedded
from finetune.backbones._ace_harmonics import spherical_harmonics
from finetune.backbones._ace_products import Products
from finetune.backbones._ace_radial import RADIALS, Core, repulsion, step
from finetune.backbones._ace_settings import check_settings, numbers_of
from finetune.errors import InputError
from finetune.files import write_text
from finetune.graph import Graph, edge_vectors
from finetune.potential import Design, Exported, LinearPotential, Potential, Tap

CHUNK = 256  # atoms whose products are worked out together in evaluation
CORE = ("inner", "width", "prefactor", "decay")


class ACE(LinearPotential):
    """An atomic cluster expansion.

    Args:
        elements: chemical symbols that it knows.
        cutoff: radius in Å.
        nmax: radial functions for each order of correlation, as pacemaker's `nradmax_by_orders`.
        lmax: largest degree of spherical harmonics for each order, as pacemaker's `lmax_by_orders`.
        functions: number of functions per element to aim at, or null for all. Those of the lowest sum of n and l over
            their factors are kept, whole shells of that sum, and all of order 1.
        radial: `bessel` or `chebyshev`.
        decay: lambda of the Chebyshev functions; the larger, the finer at short distance.
        exponents: of the embedding, one for each density: [1] is linear, [1, 0.5] is Finnis-Sinclair.
        core: core repulsion, `{}` for its defaults, `null` for none: `fraction` of the covalent radii, `width` in Å.
        dtype: `float64` or `float32`.
    """

    rows: Tensor
    scale: Tensor
    groups = {"radial": ("mixing",), "readouts": ("coefficients",)}  # noqa: RUF012
    formats = ("yace",)
    elsewhere = "Name it in elements, where the frames to fit to contain it, and fit again; or leave the structure out"
    licence = "that of the data it is fitted to"

    def __init__(
        self,
        elements: Sequence[str],
        cutoff: float = 6.0,
        nmax: Sequence[int] = (15, 3, 2, 1),
        lmax: Sequence[int] = (0, 4, 2, 0),
        functions: int | None = 350,
        radial: str = "bessel",
        decay: float = 5.25,
        exponents: Sequence[float] = (1.0,),
        core: Mapping[str, float] | None = None,
        dtype: str = "float64",
    ) -> None:
        super().__init__()
        numbers = numbers_of(elements)
        check_settings(cutoff, functions, radial, decay, exponents, core, dtype)
        self.settings: dict[str, Any] = {
            "elements": list(elements), "cutoff": float(cutoff), "nmax": list(nmax), "lmax": list(lmax),
            "functions": functions, "radial": radial, "decay": float(decay), "exponents": list(exponents),
            "core": None if core is None else asdict(Core(**core)),
        }  # fmt: skip
        self.cutoff, self.elements, self.exponents = float(cutoff), frozenset(numbers), tuple(exponents)
        self.linear = self.exponents == (1.0,) and core is None
        self.radial = RADIALS[radial](decay) if radial == "chebyshev" else RADIALS[radial]()
        every = _ace_basis.functions(len(numbers), nmax, lmax)
        self.products = Products(len(numbers), max(nmax[1:], default=1), _ace_basis.chosen(every, functions))
        self.n_radial, self.lmax = nmax[0], self.products.lmax
        self.core = None if core is None else Core(**core)
        self._add_tensors(numbers)
        if len(nmax) == 1:  # pairs alone have the radial basis itself
            self.idle, self.groups = ("mixing",), {"readouts": ("coefficients",)}
            self.mixing.requires_grad_(False)
        self.to(getattr(torch, dtype))

    def _add_tensors(self, numbers: list[int]) -> None:
        """Parameters, and the tables that depend on the elements."""
        n, count = len(numbers), len(self.products.functions)
        rows = torch.full((120,), -1)
        rows[torch.tensor(numbers)] = torch.arange(n)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("scale", torch.ones(n, count))
        unit = torch.eye(self.products.n_mixed, self.n_radial)
        self.mixing = nn.Parameter(unit[:, None].expand(n, n, -1, self.lmax + 1, -1).clone())
        self.coefficients = nn.Parameter(torch.zeros(n, len(self.exponents), count))
        table = {} if self.core is None else self.core.table(numbers)
        for name, values in table.items():
            self.register_buffer(f"core_{name}", torch.from_numpy(values).reshape(-1))

    def completed(self, graph: Graph) -> Graph:
        """Neighbours sorted by atom and by the neighbour's species, which the rest relies on."""
        i, j = graph["edge_index"]
        species = self.rows.to(i.device)[graph["numbers"]]
        order = torch.argsort(i * len(self.elements) + species[j], stable=True)
        return {**graph, "edge_index": graph["edge_index"][:, order], "shifts": graph["shifts"][order]}

    def energies(self, graph: Graph) -> tuple[Tensor, Tensor, None]:
        """Energies per structure and per atom (eV)."""
        vectors, edges = graph["vectors"].to(self.dtype), self._edges(graph)
        chunked = vectors.requires_grad and not self.training
        per_atom = _InChunks.apply(vectors, edges, self) if chunked else self.site_energies(vectors, edges)
        per_atom = per_atom.double()
        energy = per_atom.new_zeros(len(graph["n_atoms"])).index_add(0, graph["batch"], per_atom)
        return energy, per_atom, None

    def descriptors(self, graph: Graph) -> Float[Tensor, "atoms d"]:
        """B, the values of `products.functions` for each atom, in their order, exact and unscaled.

        With exponents [1], the energy of an atom less its core repulsion is linear in them, per element.
        """
        graph = graphs.to(graph, self.device, torch.float64)
        vectors = edge_vectors(graph)
        with torch.no_grad():
            parts = [self.functions(vectors[e.part[0]].to(self.dtype), e) for e in self._edges(graph).chunks(CHUNK)]
        return torch.cat(parts, dim=1).T.contiguous()

    def taps(self) -> list[Tap]:
        """B as they come out of the products."""
        return [Tap(self.products, lambda _, functions: functions.T)]

    def core_distances(self) -> dict[tuple[int, int], tuple[float, float]]:
        """The inner distance of each pair of elements, and the inner distance less the width of the fading, Å."""
        if self.core is None:
            return {}
        numbers = numbers_of(self.settings["elements"])
        inner, width = (self.get_buffer(f"core_{name}").tolist() for name in ("inner", "width"))
        pairs = [(a, b) for a in numbers for b in numbers]
        return {pair: (r, r - w) for pair, r, w in zip(pairs, inner, width, strict=True)}

    def _edges(self, graph: Graph) -> Edges:
        return Edges.of(graph["edge_index"], self.rows[graph["numbers"]], len(self.elements))

    def functions(self, vectors: Tensor, edges: Edges) -> Tensor:
        """B of each atom, shape (functions, atoms), from edge vectors in Å."""
        return self._functions(edges.by_atom(vectors, self.cutoff))

    def site_energies(self, vectors: Tensor, edges: Edges) -> Tensor:
        """Energy of each atom, eV, from edge vectors in Å."""
        rows = edges.by_atom(vectors, self.cutoff)
        weights = (self.coefficients / self.scale[:, None]).flatten(0, 1)
        densities = (weights @ self._functions(rows)).view(len(self.elements), len(self.exponents), -1)
        chosen = densities.gather(0, rows.species.expand(1, len(self.exponents), -1))[0]
        energies = torch.stack([embedded(rho, m) for rho, m in zip(chosen, self.exponents, strict=True)]).sum(dim=0)
        lengths = rows.vectors.norm(dim=-1)
        if self._touching(lengths, rows):
            energies = energies + repulsion(lengths, self.cutoff, *self._of_pairs(rows, CORE)).sum(dim=-1)
        return energies

    def _functions(self, rows: Rows) -> Tensor:
        """B of the atoms that are rows, shape (functions, atoms)."""
        result: Tensor = self.products(*self.bases(*self.radial_and_angular(rows), rows.kinds, rows.species))
        return result

    def radial_and_angular(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """g_k, faded out by the core repulsion, and Y_lm of each neighbour; shapes (k or lm, rows, neighbours)."""
        lengths = rows.vectors.norm(dim=-1)
        g = self.radial(lengths, self.cutoff, self.n_radial)
        if self._touching(lengths, rows):
            g = g * (1 - step(lengths, *self._of_pairs(rows, CORE[:2])))
        return g, spherical_harmonics(rows.vectors.movedim(-1, 0) / lengths, self.lmax)

    def bases(self, g: Tensor, y: Tensor, kinds: Tensor, species: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Sums of g_k, shape (species, k, atoms), and for each l the A, shape (2 l + 1, channels, atoms)."""
        plain = self.plain
        n, atoms = len(self.elements), len(species)
        used = self.products.n_mixed if plain else len(g)
        angular, rest = g.split([used, len(g) - used])
        base = (kinds[:, None] * angular).flatten(0, 1).transpose(0, 1) @ y.movedim(0, -1)
        parts = base.view(atoms, n, used, len(y)).split([2 * l + 1 for l in range(self.lmax + 1)], dim=-1)
        sums = torch.cat([parts[0][..., 0], kinds.transpose(0, 1) @ rest.movedim(0, -1)], dim=2)  # Y_00 is 1
        rows = []
        for l, part in enumerate(parts):
            mixed = part if plain else self.mixing[species, :, :, l] @ part
            rows.append(mixed.flatten(1, 2).permute(2, 1, 0).contiguous())
        return sums.permute(1, 2, 0), rows

    def design(self, graph: Graph) -> Design:
        """Derivatives by the coefficients of the first density, element by element.

        Raises:
            InputError: single precision.
        """
        if self.dtype != torch.float64:
            raise InputError("coefficients are solved for in double precision; set dtype: float64")
        return _ace_design.design(self, graphs.to(graph, self.device, torch.float64))

    def set_coefficients(self, values: Float[Tensor, " c"], scale: Float[Tensor, " c"] | None = None) -> None:
        """Set the coefficients of the first density."""
        with torch.no_grad():
            if scale is not None:
                scale = scale.view_as(self.scale).to(self.scale)
                self.coefficients.mul_((scale / self.scale)[:, None])
                self.scale.copy_(scale)
            self.coefficients[:, 0] = (values.view_as(self.scale).to(self.scale) * self.scale).to(self.dtype)

    def smoothness(self) -> Float[Tensor, " c"]:
        """Sum of n and l over the factors of the function that each coefficient belongs to."""
        degrees = torch.tensor([float(f.degree) for f in self.products.functions], dtype=torch.float64)
        return degrees.repeat(len(self.elements))

    def _touching(self, lengths: Tensor, rows: Rows) -> bool:
        """There is core repulsion and any pair of atoms is within its inner distance."""
        if self.core is None or not lengths.numel():
            return False
        inner = self.get_buffer("core_inner")
        row, neighbour = (lengths.detach() < inner.max()).nonzero(as_tuple=True)
        own = inner.view(len(self.elements), -1)[rows.species[row]]
        return bool((lengths.detach()[row, neighbour] < (rows.kinds[:, row, neighbour].T * own).sum(dim=1)).any())

    def _of_pairs(self, rows: Rows, names: Sequence[str]) -> list[Tensor]:
        """Numbers of the core repulsion for each neighbour, shape (rows, neighbours); those of none do nothing."""
        n = len(self.elements)
        tables = [self.get_buffer(f"core_{name}").to(self.dtype).view(n, n)[rows.species] for name in names]
        nobody = 1 - rows.kinds.sum(dim=0) if "width" in names else 0
        values = [(rows.kinds * table.T[..., None]).sum(dim=0) for table in tables]
        return [value + nobody if name == "width" else value for name, value in zip(names, values, strict=True)]

    @property
    def plain(self) -> bool:
        """The R_nl are the g_n themselves, and no training changes that now."""
        unit = torch.eye(self.products.n_mixed, self.n_radial, dtype=self.dtype, device=self.device)
        trained = self.training and self.mixing.requires_grad
        return not trained and torch.equal(self.mixing, unit[:, None].expand_as(self.mixing))

    def config(self) -> dict[str, Any]:
        """`class_path` and `init_args` that rebuild the architecture."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"class_path": "finetune.backbones.ace.ACE", "init_args": {**self.settings, "dtype": dtype}}

    def export(self, format: str, path: Path, references: Mapping[int, float] | None = None) -> Exported:
        """Write a `.yace` file for LAMMPS' `pair_style pace`, core repulsion included."""
        if format not in self.formats:
            raise self.no_format(format, self.formats)
        write_text(path, _ace_yace.yace(self, references or {}))
        symbols = self.settings["elements"]
        return Exported(symbols, "pace", f"* * {path.name} {' '.join(symbols)}")

    @classmethod
    def tiny(cls) -> ACE:
        """Few functions of every order, angular ones too, with random coefficients."""
        return cls._random()

    @classmethod
    def variants(cls) -> dict[str, Potential]:
        """Nonlinear, with core repulsion, with both, and with other radial functions that are mixed."""
        mixed = cls._random(radial="chebyshev")
        with torch.no_grad():
            mixed.mixing.add_(0.1 * torch.randn_like(mixed.mixing))
        return {
            "core": cls._random(core={}),
            "finnis-sinclair": cls._random(exponents=[1.0, 0.5]),
            "finnis-sinclair core": cls._random(exponents=[1.0, 0.5], core={}, radial="chebyshev"),
            "mixed": mixed,
            "pairs only": cls._random(nmax=[6], lmax=[0]),
        }

    @classmethod
    def _random(cls, **options: Any) -> ACE:
        sizes = {"nmax": [4, 1, 1, 1], "lmax": [0, 2, 2, 1], "functions": None, "cutoff": 5.0}
        potential = cls(["Li", "P", "S"], **{**sizes, **options})
        orders = torch.tensor([f.order for f in potential.products.functions])
        with torch.no_grad():
            potential.coefficients.normal_().mul_(0.1 ** (orders - 1))
        return potential


class _InChunks(torch.autograd.Function):
    """Energies of atoms, with their gradients worked out in the forward pass, some atoms at a time."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, edges: Edges, potential: ACE) -> Tensor:
        gradient, energies = torch.empty_like(vectors), []
        for chunk in edges.chunks(CHUNK):
            with torch.enable_grad():
                own = vectors[chunk.part[0]].detach().requires_grad_(True)
                energy = potential.site_energies(own, chunk)
                (gradient[chunk.part[0]],) = torch.autograd.grad(energy.sum(), own, materialize_grads=True)
            energies.append(energy.detach())
        ctx.save_for_backward(gradient, edges.counts.sum(dim=1))
        return torch.cat(energies)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_energies: Tensor) -> tuple[Tensor, None, None]:
        gradient, counts = ctx.saved_tensors
        return gradient * of_energies.repeat_interleave(counts)[:, None], None, None
