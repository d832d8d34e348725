"""A shallow committee: several linear readouts on the descriptors of one potential.

Member k gives atom i the energy E_i + w_k · b_i, with the descriptors b_i that the potential's own readout is linear in
and weights w_k for each element, which sum to zero over the members: the mean is the potential itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Float
from torch import Tensor

from finetune import graph as graphs
from finetune.errors import InputError
from finetune.graph import Graph
from finetune.potential import Potential, joined, listening
from finetune.properties import Properties
from finetune.references import fit_references
from finetune.uncertainty.frames import Labelled, batches, predictions
from finetune.wrapper import Wrapper

RIDGES = np.logspace(-8, 2, 21)  # over the mean eigenvalue of the normal equations
STEP = 0.05  # Å that a structure moves along a direction, over all its atoms


class Shallow(Wrapper):
    """A potential with the spread of several readouts: `energy_std`, `energies_std`, and `forces_std` on request.

    The spread of energies comes out of the pass that gives the forces, for next to nothing. That of forces takes
    another pass, and a backward one for each member.

    Args:
        potential: the potential underneath.
        weights: for each element, by atomic number or chemical symbol, what the members add to its own readout, eV,
            shape (descriptors, members); in a checkpoint the shapes.
        forces: give `forces_std` as well.
    """

    def __init__(self, potential: Potential, weights: Mapping[Any, Any], forces: bool = False) -> None:
        super().__init__(potential)
        self.forces = forces
        self.shapes: dict[int, list[int]] = {}
        for key, given in weights.items():
            number = atomic_numbers[key] if isinstance(key, str) else int(key)
            values = given.double() if isinstance(given, Tensor) else torch.zeros(*given, dtype=torch.float64)
            self.shapes[number] = list(values.shape)
            centred = (values - values.mean(dim=1, keepdim=True)).contiguous()
            self.register_buffer(f"weights_{chemical_symbols[number]}", centred.to(self.device))
        self.size = min((columns for _, columns in self.shapes.values()), default=0)
        if self.size < 2 or any(columns != self.size for _, columns in self.shapes.values()):
            raise InputError(f"a committee has two members or more, the same for all elements; got {self.shapes}")
        if forces and not potential.taps():
            raise InputError(f"{potential.kind} does not give the spread of forces of its readouts; leave out forces")

    def deviations(self, graph: Graph, features: Float[Tensor, "atoms d"]) -> Float[Tensor, "atoms members"]:
        """What each member adds to the energy of each atom, eV; 0 for elements without weights."""
        numbers = graph["numbers"].to(features.device)
        added = torch.zeros(len(numbers), self.size, dtype=torch.float64, device=features.device)
        for number in self.shapes:
            weights = self.get_buffer(f"weights_{chemical_symbols[number]}")
            chosen = (numbers == number).nonzero()[:, 0]
            added = added.index_copy(0, chosen, features.index_select(0, chosen).double() @ weights)
        return added

    def forward(self, graph: Graph) -> Properties:
        """What the potential underneath says, and the spread of the members."""
        said: Properties = self.potential(graph) if self.training else self.described(graph)[0]
        return said

    def described(self, graph: Graph) -> tuple[Properties, Float[Tensor, "atoms d"]]:
        """What the potential underneath says, the spread of the members, and the descriptors."""
        said, features = self.potential.described(graph)
        added = self.deviations(graph, features)
        total = added.new_zeros(len(said.energy), self.size).index_add(0, graph["batch"].to(added.device), added)
        forces = self._forces_std(graph) if self.forces else said.forces_std
        spread = replace(said, energy_std=total.std(dim=1), energies_std=added.std(dim=1), forces_std=forces)
        return spread, features

    def _forces_std(self, graph: Graph) -> Float[Tensor, "atoms 3"]:
        """Standard deviation of the members' forces, eV/Å: minus the gradients of what each adds to the energy."""
        graph = graphs.to(graph, self.device, torch.float64)
        i, j = graph["edge_index"]
        taps = self.potential.taps()
        with torch.enable_grad(), _differentiable(self.potential), listening(taps, differentiable=True) as heard:
            vectors = graphs.edge_vectors(graph).detach().requires_grad_(True)
            self.potential.energies({**graph, "vectors": vectors})
            totals = self.deviations(graph, joined(heard)).sum(dim=0)
            parts = [torch.autograd.grad(total, vectors, retain_graph=True)[0] for total in totals]
        still = torch.zeros_like(graph["positions"])
        forces = [still.index_add(0, i, part).index_add(0, j, part, alpha=-1) for part in parts]
        return torch.stack(forces).std(dim=0)

    def config(self) -> dict[str, Any]:
        """`class_path` and `init_args`, the potential nested, of the weights their shapes."""
        weights = {chemical_symbols[number]: shape for number, shape in self.shapes.items()}
        arguments = {"potential": self.potential.config(), "weights": weights, "forces": self.forces}
        return {"class_path": "finetune.uncertainty.Shallow", "init_args": arguments}

    def bare(self) -> Potential:
        """The potential underneath: its readouts are not those of another training."""
        return self.potential.bare()


@contextmanager
def _differentiable(potential: Potential) -> Iterator[None]:
    """Energies that can be differentiated through the descriptors; layers do not notice."""
    parts = [module for module in potential.modules() if isinstance(module, Potential)]
    before = [part.training for part in parts]
    for part in parts:
        part.training = True
    try:
        yield
    finally:
        for part, was in zip(parts, before, strict=True):
            part.training = was


def shallow(
    potential: Potential,
    frames: Sequence[Labelled],
    rng: np.random.Generator,
    members: int = 8,
    directions: int = 8,
    forces: bool = False,
    batch_edges: int = 8000,
) -> Shallow:
    """The potential with readouts fitted to bootstraps of its training frames, by ridge regression in closed form.

    Each readout fits what the potential leaves of the energies, and of the forces along some random directions, on
    groups of frames drawn with replacement. Derivatives of the descriptors are central differences, so the descriptors
    of a frame are worked out 1 + 2 `directions` times and nothing is differentiated. The ridge is the one with the
    lowest error on the groups that were not drawn.

    Args:
        potential: any potential with descriptors.
        frames: the frames that it was trained on.
        rng: draws directions and groups.
        members: number of readouts.
        directions: random directions of each frame along which forces are fitted; 0 for energies alone.
        forces: give `forces_std` as well, see `Shallow`.
        batch_edges: edges that are evaluated together.

    Raises:
        InputError: no labels, or a single group.
    """
    if members < 2:
        raise InputError(f"a committee has two members or more, not {members}")
    groups, drawn = np.unique([frame.group for frame in frames], return_inverse=True)
    if len(groups) < 2:
        raise InputError("bootstraps need frames of two groups or more; give more frames")
    elements = sorted({int(z) for frame in frames for z in frame.atoms.numbers})
    design, target, owner = _rows(potential, frames, elements, rng, directions, batch_edges)
    counts = np.stack([np.bincount(rng.integers(len(groups), size=len(groups)), minlength=len(groups))
                       for _ in range(members)])  # fmt: skip
    weights = _readouts(design, target, counts[:, drawn[owner]].astype(float))
    parts = torch.from_numpy(weights).view(members, len(elements), -1)
    return Shallow(potential, {z: parts[:, k].T for k, z in enumerate(elements)}, forces).eval()


def _rows(
    potential: Potential,
    frames: Sequence[Labelled],
    elements: Sequence[int],
    rng: np.random.Generator,
    directions: int,
    batch_edges: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Design, residuals and frame of each row: energies per atom, then forces along directions, each of unit rms."""
    said = predictions(potential, frames, batch_edges)
    numbers = [frame.atoms.numbers for frame in frames]
    sizes = np.array([len(z) for z in numbers])
    left = np.concatenate([frame.labels.energy.numpy() for frame in frames]) - said.energy.double().numpy()
    references = fit_references(numbers, left)
    energy = (left - [references.of(z) for z in numbers]) / sizes
    sums = _sums(potential, [frame.atoms for frame in frames], elements, batch_edges) / sizes[:, None]
    parts = [(sums, energy, np.arange(len(frames)))]
    forces = np.split(said.forces.double().numpy(), np.cumsum(sizes)[:-1])
    for _ in range(directions):
        along = [rng.normal(size=part.shape) for part in forces]
        along = [part / np.linalg.norm(part) for part in along]
        there, back = (_sums(potential, _moved(frames, along, s), elements, batch_edges) for s in (STEP, -STEP))
        missing = [((f.labels.forces.numpy() - p) * v).sum() for f, p, v in zip(frames, forces, along, strict=True)]
        parts.append(((back - there) / (2 * STEP), np.array(missing), np.arange(len(frames))))
    blocks = [parts[:1], parts[1:]] if directions else [parts]
    rows = [_scaled(*(np.concatenate(column) for column in zip(*block, strict=True))) for block in blocks]
    design, target, owner = (np.concatenate(column) for column in zip(*rows, strict=True))
    if not len(target):
        raise InputError("no frame has an energy or forces to fit readouts to; give labelled ones")
    return design, target, owner


def _scaled(design: np.ndarray, target: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows that are known, over the root mean square of what they are to give."""
    known = np.isfinite(target)
    size = float(np.sqrt((target[known] ** 2).mean())) if known.any() else 1.0
    return design[known] / (size or 1.0), target[known] / (size or 1.0), owner[known]


def _moved(frames: Sequence[Labelled], along: Sequence[np.ndarray], step: float) -> list[Any]:
    """Structures moved by a step (Å) along a direction each."""
    structures = [frame.atoms.copy() for frame in frames]
    for atoms, direction in zip(structures, along, strict=True):
        atoms.positions += step * direction
    return structures


def _sums(potential: Potential, structures: Sequence[Any], elements: Sequence[int], batch_edges: int) -> np.ndarray:
    """Sums of the descriptors over the atoms of each element, shape (structures, elements * descriptors)."""
    parts = []
    for graph in batches(potential, structures, batch_edges):
        features = potential.descriptors(graph).detach().cpu().double()
        place = graph["batch"] * len(elements) + torch.searchsorted(torch.tensor(elements), graph["numbers"])
        total = features.new_zeros(len(graph["n_atoms"]) * len(elements), features.shape[1])
        parts.append(total.index_add(0, place, features).view(len(graph["n_atoms"]), -1))
    return torch.cat(parts).numpy()


def _readouts(design: np.ndarray, target: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Ridge regressions with the rows counted as drawn for each member, shape (members, columns)."""
    scale = np.sqrt((design**2).mean(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    x = design / scale
    found, errors = [], np.zeros(len(RIDGES))
    for drawn in counts:
        values, vectors = np.linalg.eigh((x * drawn[:, None]).T @ x)
        values = np.maximum(values, 0.0)
        shrunk = (vectors.T @ (x.T @ (drawn * target)))[:, None] / (values[:, None] + RIDGES * values.mean())
        found.append(vectors @ shrunk)  # a column for each ridge
        left_out = drawn == 0
        errors += ((x[left_out] @ found[-1] - target[left_out, None]) ** 2).sum(axis=0)
    return np.stack([columns[:, int(errors.argmin())] for columns in found]) / scale
