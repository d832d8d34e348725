"""Phases that thermodynamics predicts between two reactants: the products along the mixing line of a convex hull.

Richards et al., 10.1021/acs.chemmater.5b04082; open to an element: Ong et al., 10.1021/cm702327g.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ase import units
from pymatgen.analysis.phase_diagram import GrandPotentialPhaseDiagram, GrandPotPDEntry, PhaseDiagram
from pymatgen.core import Composition, Element
from pymatgen.entries.computed_entries import ComputedEntry

from finetune.errors import InputError, unknown

EV_TO_KJ_PER_MOL = units.mol / units.kJ  # kJ/mol in one eV per formula
NEGLIGIBLE = 1e-6  # amounts below it are round-off


@dataclass(frozen=True)
class Reaction:
    """What a mixture of two reactants becomes at equilibrium.

    Attributes:
        x: share of the atoms that come from the first reactant; those of an open element do not count.
        energy: reaction energy, eV per atom of the mixture, those of an open element not counted.
        energy_kJ_per_mol: reaction energy of the equation as it stands.
        reactants: formula units of what reacts; one of the second reactant where there is any.
        products: formula units of what comes out, by reduced formula.
    """

    x: float
    energy: float
    energy_kJ_per_mol: float
    reactants: Mapping[str, float]
    products: Mapping[str, float]

    @property
    def equation(self) -> str:
        """The balanced equation."""
        return f"{side(self.reactants)} → {side(self.products)}"


@dataclass(frozen=True)
class Uptake:
    """What a compound becomes in contact with an element of some chemical potential.

    Attributes:
        compound: its reduced formula.
        potential: highest chemical potential relative to the element, eV, at which these are the phases.
        amount: atoms of the element taken up per formula unit; negative where it loses some.
        products: formula units of what comes out, by reduced formula.
    """

    compound: str
    potential: float
    amount: float
    products: Mapping[str, float]


@dataclass(frozen=True)
class Prediction:
    """Reactions along the mixing line of two reactants.

    Attributes:
        reactants: reduced formulas of both.
        above_hull: energies of the reactants above the hull, eV/atom; zero where they are stable or have no entry.
        assumed: reactants without an entry, whose energy is that of the hull: they are taken as just stable.
        reactions: at every x where the products change, in the order of x.
        open_to: the open element, if any.
        potential: its chemical potential relative to the element, eV.
        uptakes: what each reactant takes up of the open element, from low to high potential.
    """

    reactants: tuple[str, str]
    above_hull: tuple[float, float]
    assumed: tuple[str, ...]
    reactions: tuple[Reaction, ...]
    open_to: str | None = None
    potential: float = 0.0
    uptakes: tuple[Uptake, ...] = ()

    @property
    def products(self) -> list[str]:
        """Reduced formulas of everything that comes out somewhere along the line and is not a reactant."""
        found = {formula: None for reaction in self.reactions for formula in reaction.products}
        return [formula for formula in found if formula not in self.reactants]

    @property
    def strongest(self) -> Reaction:
        """The reaction with the lowest energy per atom."""
        return min(self.reactions, key=lambda reaction: reaction.energy)

    def json(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        reactions = [{"equation": reaction.equation, **asdict(reaction)} for reaction in self.reactions]
        return asdict(self) | {"products": self.products, "reactions": reactions}


def composition(formula: str) -> Composition:
    """The composition of a formula.

    Raises:
        InputError: it is none.
    """
    try:
        found = Composition(formula)
    except (ValueError, KeyError) as error:
        raise InputError(f"{formula!r} is no chemical formula; write it like Li7P3S11") from error
    if not found or not all(
        isinstance(element, Element) and element.is_valid_symbol(element.symbol) for element in found
    ):
        raise InputError(f"{formula!r} is no chemical formula; write it like Li7P3S11")
    return found


def elements_of(formulas: Sequence[str]) -> list[str]:
    """Symbols of the elements of some formulas, sorted."""
    return sorted({element.symbol for formula in formulas for element in composition(formula)})


def hull(entries: Sequence[ComputedEntry], elements: Sequence[str]) -> PhaseDiagram:
    """The convex hull of all entries that consist of these elements only.

    Raises:
        InputError: an element on its own has no entry.
    """
    within = [e for e in entries if {element.symbol for element in e.composition} <= set(elements)]
    pure = {str(e.composition.elements[0]) for e in within if len(e.composition) == 1}
    if missing := sorted(set(elements) - pure):
        raise InputError(f"no entry of the element {', '.join(missing)}; a hull needs every element on its own: add it")
    return PhaseDiagram(within, elements=[Element(symbol) for symbol in elements])


def lowest(diagram: PhaseDiagram, of: Composition) -> ComputedEntry | None:
    """The entry of a composition with the lowest energy per atom, on the hull or above it."""
    same = [entry for entry in diagram.all_entries if entry.composition.reduced_formula == of.reduced_formula]
    return min(same, key=lambda entry: entry.energy_per_atom, default=None)


def above_hull(diagram: PhaseDiagram, entry: ComputedEntry) -> float:
    """Energy of an entry above the hull, eV/atom."""
    return max(0.0, float(diagram.get_e_above_hull(entry) or 0.0))


def predict(
    diagram: PhaseDiagram, reactants: tuple[str, str], open_to: str | None = None, potential: float = 0.0
) -> Prediction:
    """Reactions between two reactants at every mixing ratio where the products change.

    Args:
        diagram: the convex hull of their elements.
        reactants: two formulas.
        open_to: an element that comes and goes freely, as from a reservoir.
        potential: its chemical potential relative to the stable element, eV.

    Raises:
        InputError: a reactant has elements that the hull has not, or the open element is not one of them.
    """
    pair = (composition(reactants[0]).reduced_composition, composition(reactants[1]).reduced_composition)
    names = (pair[0].reduced_formula, pair[1].reduced_formula)
    known = [element.symbol for element in diagram.elements]
    if strange := sorted(set(elements_of(reactants)) - set(known)):
        raise InputError(f"the entries do not have {', '.join(strange)}, but the reactants do; give entries of all")
    if names[0] == names[1]:
        raise InputError(f"both reactants are {names[0]}; give two different ones")
    if open_to is not None and open_to not in known:
        raise unknown("open element", open_to, known)
    element = None if open_to is None else Element(open_to)
    found = [lowest(diagram, one) for one in pair]
    above = [0.0 if entry is None else above_hull(diagram, entry) for entry in found]
    line = mixing_line(diagram, pair, (above[0], above[1]), element, potential)
    return Prediction(
        reactants=names,
        above_hull=(above[0], above[1]),
        assumed=tuple(name for name, entry in zip(names, found, strict=True) if entry is None),
        reactions=tuple(line.reaction(x) for x in line.kinks()),
        open_to=open_to,
        potential=potential,
        uptakes=tuple(step for one in pair if element for step in uptakes(diagram, one, element)),
    )


@dataclass(frozen=True)
class MixingLine:
    """Mixtures of two reactants on a hull, which is that of grand potentials where an element is open.

    Attributes:
        diagram: the hull; its compositions are without the open element.
        reactants: both reactants, whole.
        energies: energy of a formula unit of each, eV; grand potential where an element is open.
        element: the open element.
    """

    diagram: PhaseDiagram
    reactants: tuple[Composition, Composition]
    energies: tuple[float, float]
    element: Element | None = None

    @property
    def counted(self) -> tuple[Composition, Composition]:
        """The reactants without the open element."""
        first, second = self.reactants
        return without(first, self.element), without(second, self.element)

    def kinks(self) -> list[float]:
        """The shares of the first reactant's atoms at which the products change, with both ends where there are any.

        Raises:
            InputError: no reactant has anything but the open element.
        """
        counted = [one.fractional_composition for one in self.counted]
        if not any(counted):
            raise InputError(f"the reactants are nothing but {self.element}, the open element; give other ones")
        if not all(counted):  # the reservoir is the one reactant: all mixtures are alike
            return [1.0 if counted[0] else 0.0]
        first, second = counted
        if first.almost_equals(second):
            return [0.0, 1.0]
        mixtures = self.diagram.get_critical_compositions(first, second)
        varying = max(self.diagram.elements, key=lambda symbol: abs(first[symbol] - second[symbol]))
        shares = [(one[varying] - second[varying]) / (first[varying] - second[varying]) for one in mixtures]
        return sorted({min(1.0, max(0.0, round(float(x), 12))) for x in shares})

    def reaction(self, x: float) -> Reaction:
        """The reaction of a mixture in which the first reactant has a share x of the atoms."""
        sizes = [one.num_atoms for one in self.counted]
        amounts = (x * sizes[1] / ((1 - x) * sizes[0]), 1.0) if x < 1 and sizes[0] else (float(x == 1), float(x < 1))
        mixture = self.reactants[0] * amounts[0] + self.reactants[1] * amounts[1]
        counted = without(mixture, self.element)
        left = {one.reduced_formula: n for one, n in zip(self.reactants, amounts, strict=True) if n > NEGLIGIBLE}
        right = formula_units(self.diagram, counted)
        energy = float(self.diagram.get_hull_energy(counted))
        energy -= sum(n * whole for n, whole in zip(amounts, self.energies, strict=True))
        if self.element:
            symbol = self.element.symbol
            taken = atoms_of(self.element, right) - float(mixture[self.element])
            side_of = left if taken > 0 else right
            if abs(taken) > NEGLIGIBLE:
                side_of[symbol] = side_of.get(symbol, 0.0) + abs(taken)
        return Reaction(x, energy / counted.num_atoms, energy * EV_TO_KJ_PER_MOL, left, right)


def mixing_line(
    diagram: PhaseDiagram,
    reactants: tuple[Composition, Composition],
    above: tuple[float, float],
    element: Element | None,
    potential: float,
) -> MixingLine:
    """The mixing line of two reactants that are so far above the hull (eV/atom), perhaps open to an element."""
    first, second = (
        float(diagram.get_hull_energy(one)) + height * one.num_atoms
        for one, height in zip(reactants, above, strict=True)
    )
    if element is None:
        return MixingLine(diagram, reactants, (first, second))
    absolute = potential + float(diagram.el_refs[element].energy_per_atom)
    grand = GrandPotentialPhaseDiagram(diagram.all_entries, {element: absolute}, diagram.elements)
    first, second = first - absolute * reactants[0][element], second - absolute * reactants[1][element]
    return MixingLine(grand, reactants, (first, second), element)


def uptakes(diagram: PhaseDiagram, compound: Composition, element: Element) -> list[Uptake]:
    """What a compound becomes as the chemical potential of an element rises; nothing for the element itself."""
    if not without(compound, element):
        return []
    steps = []
    for step in diagram.get_element_profile(element, compound):
        saturated = step["critical_composition"]
        scale = without(compound, element).num_atoms / without(saturated, element).num_atoms
        products = formula_units(diagram, saturated * scale)
        potential = float(step["chempot"] - step["element_reference"].energy_per_atom)
        amount = atoms_of(element, products) - float(compound[element])
        steps.append(Uptake(compound.reduced_formula, potential, round(amount, 9), products))
    return sorted(steps, key=lambda step: step.potential)


def formula_units(diagram: PhaseDiagram, mixture: Composition) -> dict[str, float]:
    """Formula units of the phases at equilibrium by reduced formula, with their atoms of an open element."""
    found: dict[str, float] = {}
    for entry, fraction in diagram.get_decomposition(mixture).items():
        whole = entry.original_comp if isinstance(entry, GrandPotPDEntry) else entry.composition
        formula, units_per_cell = whole.get_reduced_formula_and_factor()
        amount = float(fraction * mixture.num_atoms / entry.composition.num_atoms * units_per_cell)
        if amount > NEGLIGIBLE:
            found[formula] = found.get(formula, 0.0) + amount
    return found


def atoms_of(element: Element, amounts: Mapping[str, float]) -> float:
    """Atoms of an element in formula units."""
    return float(sum(n * Composition(formula)[element] for formula, n in amounts.items()))


def without(one: Composition, element: Element | None) -> Composition:
    """A composition without an element."""
    return Composition({symbol: amount for symbol, amount in one.items() if symbol != element})


def side(amounts: Mapping[str, float]) -> str:
    """One side of an equation: formulas with their amounts, which are left out where they are one."""
    return " + ".join(formula if abs(n - 1) < 1e-4 else f"{n:.4g} {formula}" for formula, n in amounts.items())
