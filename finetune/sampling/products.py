"""The crystals of the products that a convex hull predicts for two reactants, to be sampled like any others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from finetune.errors import InputError
from finetune.sampling.core import Context, Sampler


@dataclass(frozen=True)
class Products(Sampler):
    """Random crystals of the products of two reactants, without end; every product is equally likely.

    The products are those along the mixing line on the convex hull of computed entries; of each it is the polymorph
    with the lowest energy of those that the folder has within `max_atoms`. The reactants are not among them.

    Attributes:
        reactants: formulas of both.
        entries: JSON file of pymatgen's `ComputedEntry`, with every element of the reactants on its own.
        folder: where the CIF files lie, at any depth; an entry's id is the name of its file or an `mp-` id in it.
        min_atoms: smaller primitive cells are repeated.
        max_atoms: larger primitive cells are left out.
        open_to: an element that comes and goes freely; none if empty.
        potential: its chemical potential relative to the element, eV.
    """

    reactants: tuple[str, str]
    entries: Path
    folder: Path
    min_atoms: int = 4
    max_atoms: int = 42
    open_to: str = ""
    potential: float = 0.0

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """Copies of the crystals; the group is the reduced formula."""
        found, missing = self.crystals()
        if missing or not found:
            what = f"the predicted {', '.join(missing)}" if missing else "a product, as none is predicted"
            where = f"below {self.folder} has at most {self.max_atoms} atoms"
            raise InputError(f"no crystal of {what} {where}; add one or raise max_atoms")
        crystals = list(found.values())
        while True:
            yield crystals[context.rng.integers(len(crystals))].copy()

    def crystals(self) -> tuple[dict[str, Atoms], list[str]]:
        """The crystal of every product by formula, and the products that have none."""
        from finetune.sampling import entries, phases  # pymatgen's phase diagrams take a second to import

        known = entries.read_entries(self.entries)
        diagram = phases.hull(known, phases.elements_of([*self.reactants, *filter(None, [self.open_to])]))
        prediction = phases.predict(diagram, self.reactants, self.open_to or None, self.potential)
        return entries.crystals_of_products(prediction.products, known, self.folder, self.min_atoms, self.max_atoms)
