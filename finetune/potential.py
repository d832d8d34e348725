"""The contract that every backbone keeps: atoms to energy, forces and stress."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ase import Atoms
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor, nn

from finetune import graph as graphs
from finetune.errors import InputError, unknown
from finetune.graph import Graph
from finetune.properties import Properties
from finetune.provenance import TrainingData, unseen_message


class Design(NamedTuple):
    """Derivatives of energy (structures c), forces (atoms 3 c) and stress (structures 3 3 c) by c coefficients."""

    energy: Tensor
    forces: Tensor
    stress: Tensor


class Exported(NamedTuple):
    """What LAMMPS has to be told of an exported potential: its elements, `pair_style` and `pair_coeff`."""

    symbols: list[str]
    style: str
    coefficients: str


class Tap(NamedTuple):
    """Where descriptors pass by in a forward pass: a module, and what takes them from its inputs and its output.

    A module that is called for some atoms after the other has them taken each time, and joined.
    """

    module: nn.Module
    take: Callable[[tuple[Any, ...], Any], Tensor]


class Potential(nn.Module, ABC):
    """Maps atoms to energy (eV), forces (eV/Å) and stress (eV/Å³).

    A backbone implements `energies` and `descriptors`, completes the graph of neighbours where it needs more, names
    its parameter `groups`, and says by `config` how it is rebuilt; forces and stress follow from `energies` by
    differentiation, once for all backbones.

    Attributes:
        cutoff: radius in Å beyond which atoms do not see each other in one message.
        elements: atomic numbers that the potential knows.
        licence: licence of the weights, SPDX id or a plain word.
        training_data: elements and structures that the weights were fitted to; None where not known.
        trained_elements: atomic numbers in the training set of a foundation model; None where not known.
        pretrained: the weights come from training, so predictions mean something before fine-tuning.
        groups: parameter groups by name (embedding, interactions, readouts, ...): prefixes of parameter names.
        idle: prefixes of parameters that nothing depends on.
        only_magmoms: prefixes of parameters that only magnetic moments depend on.
        linear: energies of atoms are linear in their descriptors, per element.
        formats: that `export` writes, beside a checkpoint.
        formats_note: plain words on formats that there are not.
        elsewhere: what to do where an element is not known.
        shifted: its energies have the zero of the labels that it was fitted to.
        offsets: index keys of the backbone's own graph and the key whose length they count, for `collate`.
    """

    cutoff: float
    elements: frozenset[int]
    licence: str = "unknown"
    pretrained: bool = False
    training_data: TrainingData | None = None
    trained_elements: frozenset[int] | None = None
    linear: bool = True
    shifted: bool = False
    groups: Mapping[str, tuple[str, ...]] = {}
    idle: tuple[str, ...] = ()
    only_magmoms: tuple[str, ...] = ()
    offsets: Mapping[str, str] = {}
    formats: tuple[str, ...] = ()
    formats_note: str = ""
    elsewhere: str = "Take another foundation model or drop the frame"

    def graph(self, atoms: Atoms) -> Graph:
        """The backbone's graph of a structure, on the CPU.

        Raises:
            InputError: an element that the potential does not know, atoms on top of each other, a cell without volume.
        """
        self.check_elements(atoms)
        return self.completed(graphs.neighbour_graph(atoms, self.cutoff))

    def completed(self, graph: Graph) -> Graph:
        """The neighbour graph of one structure with what else the backbone needs (angles, say), on the same device."""
        return graph

    @abstractmethod
    def energies(self, graph: Graph) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Energy per structure, energies and magnetic moments per atom (or None), from `vectors` of the edges."""

    @abstractmethod
    def descriptors(self, graph: Graph) -> Float[Tensor, "atoms d"]:
        """The features that the readout of each atom's energy is linear in, per element."""

    def core_distances(self) -> Mapping[tuple[int, int], tuple[float, float]]:
        """Core repulsion of pairs of elements, by both atomic numbers in either order; empty without one.

        Returns:
            The distance (Å) below which it fades in, and the one below which it has replaced all that was fitted.
        """
        return {}

    def taps(self) -> Sequence[Tap]:
        """Where the descriptors pass by in a forward pass, side by side; none where `descriptors` finds its own way."""
        return ()

    def described(self, graph: Graph) -> tuple[Properties, Float[Tensor, "atoms d"]]:
        """What `forward` says, and the descriptors of the same pass where there are `taps`; two passes otherwise."""
        taps = self.taps()
        if not taps:
            return self(graph), self.descriptors(graph)
        with listening(taps) as heard:
            said = self(graph)
        return said, joined(heard)

    def _from_taps(self, graph: Graph) -> Tensor:
        """The descriptors alone, of a pass without forces."""
        graph = graphs.to(graph, self.device, torch.float64)
        with torch.no_grad(), listening(self.taps()) as heard:
            self.energies({**graph, "vectors": graphs.edge_vectors(graph)})
        return joined(heard)

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """`class_path` and plain `init_args` that rebuild this potential without its weights."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> Potential:
        """A small one with random weights for tests, seeded by torch's generator."""

    @classmethod
    def variants(cls) -> dict[str, Potential]:
        """Further small ones by a word for each, where a backbone has forms that the contract is to be tried on too."""
        return {}

    @classmethod
    def named(cls, name: str, trusted: bool = False) -> Potential:
        """The potential behind the part of a model name after the colon (`chgnet:r2scan` -> `r2scan`)."""
        raise InputError(
            f"{cls.__name__} has no models by name; fit one (configs/{cls.__module__.rpartition('.')[2]}.yaml) and "
            "give its run directory or checkpoint"
        )

    @classmethod
    def names(cls) -> dict[str, str]:
        """Names that `named` knows, with the licence of each."""
        return {}

    def export(self, format: str, path: Path, references: Mapping[int, float] | None = None) -> Exported | None:
        """Write the potential, with reference energies in eV by atomic number, for another programme.

        Returns what LAMMPS has to be told; None where the file is not for LAMMPS.
        """
        raise self.no_format(format, self.formats)

    def no_format(self, format: str, known: Sequence[str]) -> InputError:
        """The error for a format that there is not."""
        note = f" ({self.formats_note})" if self.formats_note else ""
        return unknown(f"format for {self.kind}{note}", format, known)

    @property
    def kind(self) -> str:
        """Name of the backbone."""
        return type(self).__name__

    def bare(self) -> Potential:
        """The potential without what training would make untrue of it (grades, calibration)."""
        return self

    def collate(self, members: Sequence[Graph]) -> Graph:
        """One graph out of several."""
        return graphs.collate(members, self.offsets)

    def forward(self, graph: Graph) -> Properties:
        """Energy, forces and stress (float64) of a batched graph; differentiable in training mode.

        The geometry stays in double precision, whatever the weights are in: bond lengths and angles lose no digits.
        """
        graph = graphs.to(graph, self.device, torch.float64)
        return graphs.energy_and_derivatives(graph, self.energies, self.training)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def check_elements(self, atoms: Atoms) -> None:
        """Raise `InputError` where an element is not known to this potential."""
        missing = sorted(set(atoms.numbers.tolist()) - self.elements)
        if missing:
            known = ", ".join(chemical_symbols[z] for z in sorted(self.elements))
            raise InputError(
                f"{self.kind} does not know {', '.join(chemical_symbols[z] for z in missing)}; "
                f"it knows {known}. {self.elsewhere}"
            )

    def unseen(self, numbers: Iterable[int]) -> set[int]:
        """Elements of a structure that no training frame contains; empty where the training set is not known.

        Args:
            numbers: atomic numbers.
        """
        known = None if self.training_data is None else self.training_data.elements
        trained = self.trained_elements if known is None else known
        return set() if trained is None else {int(z) for z in numbers} - set(trained)

    def warn_unseen(self, numbers: Iterable[int]) -> set[int]:
        """Warn of elements that no training frame contains, and return them.

        Args:
            numbers: atomic numbers of all structures that are computed.
        """
        found = self.unseen(numbers)
        if found:
            warnings.warn(unseen_message(found), stacklevel=2)
        return found


class LinearPotential(Potential):
    """A potential that is linear in coefficients, which can be solved for instead of trained.

    What does not depend on them (core repulsion, other densities) is what the potential says when they are 0.
    """

    @abstractmethod
    def design(self, graph: Graph) -> Design:
        """Derivatives of energy (eV), forces (eV/Å) and stress (eV/Å³) by the coefficients, float64."""

    @abstractmethod
    def set_coefficients(self, values: Float[Tensor, " c"], scale: Float[Tensor, " c"] | None = None) -> None:
        """Set the coefficients; `scale` is the size of each column of the design, for a training that follows."""

    @abstractmethod
    def smoothness(self) -> Float[Tensor, " c"]:
        """Degree of the function that a coefficient belongs to: the higher, the less smooth."""


@contextmanager
def listening(taps: Sequence[Tap], differentiable: bool = False) -> Iterator[list[list[Tensor]]]:
    """What passes by at each tap while the block runs, with or without the autograd graph."""
    heard: list[list[Tensor]] = [[] for _ in taps]

    def hook(k: int, given: tuple[Any, ...], said: Any) -> None:
        taken = taps[k].take(given, said)
        heard[k].append(taken if differentiable else taken.detach())

    hooks = [tap.module.register_forward_hook(lambda _, a, b, k=k: hook(k, a, b)) for k, tap in enumerate(taps)]
    try:
        yield heard
    finally:
        for one in hooks:
            one.remove()


def joined(heard: Sequence[Sequence[Tensor]]) -> Tensor:
    """Descriptors from what was heard at each tap, atoms after atoms and features side by side."""
    return torch.cat([torch.cat(list(parts)) for parts in heard], dim=1)
