from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from pymatgen.analysis.interface_reactions import GrandPotentialInterfacialReactivity, InterfacialReactivity
from pymatgen.analysis.phase_diagram import GrandPotentialPhaseDiagram, PhaseDiagram
from pymatgen.core import Composition, Element
from pymatgen.entries.computed_entries import ComputedEntry

from finetune.cli.phases import run
from finetune.errors import InputError
from finetune.sampling import Context, Products, Strained
from finetune.sampling.entries import (
    Relaxation,
    crystals_of,
    crystals_of_products,
    entries_text,
    materials_project_entries,
    read_entries,
    relaxed_entries,
)
from finetune.sampling.phases import Reaction, hull, predict

from .tolerances import close

KJ_PER_MOL = 96.48533212331
PNG = b"\x89PNG"


def synthetic(above: float = 0.0) -> list[ComputedEntry]:
    """Li at -2, S at -4 eV/atom, Li2S 3 eV per formula unit below them, LiS so far (eV/atom) above the line to S."""
    lis = (-2 - 4) - 1.5 + 2 * above
    energies = {"Li": -2.0, "S": -4.0, "Li4S2": 2 * (-4 - 4 - 3.0), "LiS": lis}
    return [ComputedEntry(formula, energy, entry_id=formula) for formula, energy in energies.items()]


@pytest.fixture(scope="module")
def shipped() -> list[ComputedEntry]:
    return read_entries(Path(__file__).parents[1] / "data/structures/chgnet_entries.json")


@pytest.fixture(scope="module")
def lips(shipped: list[ComputedEntry]) -> PhaseDiagram:
    return hull(shipped, ["Li", "P", "S"])


@pytest.fixture(scope="module")
def alloys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copper, gold and an alloy of them, as CIF files."""
    path = tmp_path_factory.mktemp("alloys")
    ase.io.write(path / "Cu_mp-30.cif", bulk("Cu", "fcc", a=3.7))
    ase.io.write(path / "Au_mp-81.cif", bulk("Au", "fcc", a=4.0))
    ase.io.write(path / "CuAu_mp-522.cif", bulk("CuAu", "cesiumchloride", a=3.1))
    return path


def test_the_reaction_energy_is_that_computed_by_hand() -> None:
    prediction = predict(hull(synthetic(above=0.2), ["Li", "S"]), ("Li", "S"))
    assert prediction.products == ["Li2S"]
    start, reaction, end = prediction.reactions
    close([start.x, reaction.x, end.x], [0, 2 / 3, 1], "identity, float64")
    close([start.energy, reaction.energy, end.energy], [0, -1, 0], "identity, float64")
    assert reaction.energy_kJ_per_mol == pytest.approx(-3 * KJ_PER_MOL)
    assert reaction.equation == "2 Li + S → Li2S"
    assert prediction.strongest is reaction


def test_a_reactant_above_the_hull_decomposes_by_what_it_is_above() -> None:
    prediction = predict(hull(synthetic(above=0.2), ["Li", "S"]), ("Li", "LiS"))
    close(prediction.above_hull, [0, 0.2], "identity, float64")
    first = prediction.reactions[0]
    close([first.x, first.energy], [0, -0.2], "identity, float64")
    assert first.equation == "LiS → 0.5 Li2S + 0.5 S"


def test_a_reactant_without_an_entry_is_taken_as_just_stable_and_told() -> None:
    prediction = predict(hull(synthetic(above=0.2), ["Li", "S"]), ("Li", "Li2S3"))
    assert prediction.assumed == ("Li2S3",)
    close(prediction.reactions[0].energy, 0, "identity, float64")


@pytest.mark.parametrize("potential", [0.0, -1.0, -1.4])
def test_the_grand_potential_of_sulfur_in_contact_with_lithium_is_that_computed_by_hand(potential: float) -> None:
    prediction = predict(hull(synthetic(above=0.2), ["Li", "S"]), ("Li", "S"), "Li", potential)
    [reaction] = prediction.reactions
    assert reaction.equation == "S + 2 Li → Li2S"
    close(reaction.energy, -3 - 2 * potential, "identity, float64")


def test_sulfur_takes_up_no_lithium_below_the_potential_at_which_the_sulfide_forms() -> None:
    diagram = hull(synthetic(above=0.2), ["Li", "S"])
    [reaction] = predict(diagram, ("Li", "S"), "Li", -1.6).reactions
    assert reaction.equation == "S → S"
    close(reaction.energy, 0, "identity, float64")
    steps = predict(diagram, ("Li", "S"), "Li").uptakes
    close([(step.potential, step.amount) for step in steps], [(-1.5, 0), (0, 2)], "identity, float64")
    assert [dict(step.products) for step in steps] == [{"S": 1.0}, {"Li2S": 1.0}]


def test_lithium_and_the_thiophosphate_become_sulfide_and_phosphide(lips: PhaseDiagram) -> None:
    prediction = predict(lips, ("Li", "Li7P3S11"))
    assert {"Li2S", "Li3P"} <= set(prediction.products)
    assert prediction.strongest.equation == "24 Li + Li7P3S11 → 3 Li3P + 11 Li2S"
    assert -1.0 < prediction.strongest.energy < -0.4
    assert set(predict(lips, ("Li", "Li7P3S11"), "Li").products) == {"Li2S", "Li3P"}


@pytest.mark.parametrize("pair", [("Li", "Li7P3S11"), ("Li3P", "P2S5"), ("Li", "P4S7")], ids="-".join)
@pytest.mark.parametrize("open_to", [None, "Li"])
def test_equations_are_balanced(lips: PhaseDiagram, pair: tuple[str, str], open_to: str | None) -> None:
    def atoms(reaction: Reaction, side: str) -> list[float]:
        amounts = getattr(reaction, side).items()
        return [sum(n * Composition(formula)[element] for formula, n in amounts) for element in ("Li", "P", "S")]

    for reaction in predict(lips, pair, open_to, -0.3 if open_to else 0.0).reactions:
        assert atoms(reaction, "reactants") == pytest.approx(atoms(reaction, "products"), abs=1e-4)


@pytest.mark.parametrize("pair", [("Li", "Li7P3S11"), ("Li3P", "P2S5")], ids="-".join)
def test_kinks_are_those_of_pymatgen(lips: PhaseDiagram, pair: tuple[str, str]) -> None:
    peer = InterfacialReactivity(*map(Composition, pair), lips, norm=True, use_hull_energy=False).get_kinks()
    ours = predict(lips, pair).reactions
    assert [(r.x, r.energy) for r in ours] == [pytest.approx(kink[1:3], abs=1e-6) for kink in peer]


def test_kinks_open_to_lithium_are_those_of_pymatgen(lips: PhaseDiagram) -> None:
    pair = (Composition("LiP7"), Composition("P2S5"))
    reference = float(lips.el_refs[Element("Li")].energy_per_atom)
    grand = GrandPotentialPhaseDiagram(lips.all_entries, {Element("Li"): reference - 2.2}, lips.elements)
    peer = GrandPotentialInterfacialReactivity(
        *pair, grand_pd=grand, pd_non_grand=lips, include_no_mixing_energy=True, use_hull_energy=False
    )
    ours = predict(lips, ("LiP7", "P2S5"), "Li", -2.2).reactions
    assert len(ours) > 2
    assert [r.energy for r in ours] == pytest.approx([kink[2] for kink in peer.get_kinks()], abs=1e-6)


def test_entries_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "entries.json"
    path.write_text(entries_text(synthetic()))
    read = read_entries(path)
    assert [(e.composition, e.energy, e.entry_id) for e in read] == [
        (e.composition, e.energy, e.entry_id) for e in synthetic()
    ]


def test_the_shipped_pbe_entries_give_the_lithium_phosphides(root: Path) -> None:
    entries = read_entries(root / "data/structures/mp_gga_Li-P_entries.json")
    assert {"Li3P", "LiP"} <= set(predict(hull(entries, ["Li", "P"]), ("Li", "P")).products)


def test_crystals_are_relaxed_once_and_the_refused_kept_aside(alloys: Path, tmp_path: Path) -> None:
    crystals = crystals_of(alloys, ["Cu", "Au"], max_atoms=10)
    assert [len(crystal) for crystal in crystals] == [1, 1, 2]
    entries, failed = relaxed_entries(crystals, EMT(), Relaxation(fmax=0.01), tmp_path, "emt")
    assert not failed
    copper = next(entry for entry in entries if entry.entry_id == "Cu_mp-30")
    assert copper.energy == pytest.approx(-0.007, abs=2e-3)  # EMT's zero is the bulk
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again, _ = relaxed_entries(crystals, EMT(), Relaxation(fmax=0.01), tmp_path, "emt")
    assert [entry.energy for entry in again] == pytest.approx([entry.energy for entry in entries], abs=1e-6)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    few = Relaxation(fmax=1e-6, steps=1)
    entries, failed = relaxed_entries(crystals, EMT(), few, tmp_path / "few", "emt")
    assert not entries
    assert "after 1 steps" in failed["Cu_mp-30"]


def test_the_lowest_polymorph_that_the_folder_has_is_the_product(alloys: Path) -> None:
    entries = [ComputedEntry("Cu", energy, entry_id=name) for name, energy in (("mp-9", -2), ("mp-30", -1))]
    found, missing = crystals_of_products(["Cu", "Ag"], entries, alloys, 1, 10)
    assert found["Cu"].info["made_by"] == "Cu_mp-30"
    assert missing == ["Ag"]


def test_products_are_sampled_like_other_crystals(root: Path) -> None:
    structures = root / "data/structures"
    products = Products(("Li", "Li7P3S11"), structures / "chgnet_entries.json", structures)
    stream = Strained(copies=1).frames(
        products.frames((), Context(np.random.default_rng(0))), Context(np.random.default_rng(1))
    )
    frames = list(islice(stream, 40))
    groups = {atoms.info["group"] for atoms in frames}
    assert {"Li2S", "Li3P"} <= groups
    assert not {"Li", "Li7P3S11"} & groups
    assert all("Strained" in atoms.info["made_by"] for atoms in frames)
    again = products.frames((), Context(np.random.default_rng(0)))
    assert [next(again).info["group"] for _ in frames] == [atoms.info["group"] for atoms in frames]


def test_a_product_without_a_crystal_is_told(root: Path) -> None:
    structures = root / "data/structures"
    products = Products(("Li", "Li7P3S11"), structures / "chgnet_entries.json", structures, 1, 3)
    with pytest.raises(InputError, match=r"Li3P.*at most 3 atoms.*raise max_atoms"):
        next(products.frames((), Context(np.random.default_rng(0))))


def test_the_command_writes_table_figures_and_products(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    run(["phases", "-c", "configs/phases/li-li7p3s11.yaml", "--open", "Li", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "Li7P3S11 + 24 Li → 3 Li3P + 11 Li2S" in printed
    assert "Li taken up" in printed
    assert "above the hull" in printed
    content = json.loads((tmp_path / "phases.json").read_text())
    assert set(content["products"]) == {"Li2S", "Li3P"}
    assert content["reactions"][0]["energy"] < -1
    assert {path.name for path in (tmp_path / "products").iterdir()} == {"Li2S.extxyz", "Li3P.extxyz"}
    for figure in ("hull.png", "reaction.png"):
        assert (tmp_path / figure).read_bytes().startswith(PNG)


def test_the_command_relaxes_crystals_by_any_calculator(
    alloys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["phases", "--reactants", "Cu", "Au", "--calculator", "ase.calculators.emt.EMT", "--output", str(tmp_path)]
    run([*words, "--structures", str(alloys)])
    assert "Cu + Au" in capsys.readouterr().out
    assert len(read_entries(tmp_path / "entries.json")) == 3
    with pytest.raises(InputError, match="other settings"):
        run([*words, "--structures", str(alloys), "--relaxation.fmax", "0.2"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Li", "Li"], "one element"),
        (["Li3P", "Li6P2"], "both reactants are Li3P"),
        (["Li", "water"], "no chemical formula"),
        (["Li", "LiCl"], "no entry of the element Cl"),
        (["Li", "P", "--entries", "nothing.json"], "cannot read nothing.json"),
        (["Li", "P", "--mp", "--calculator", "chgnet"], "give one of them"),
        (["Li", "P", "--mp"], "MP_API_KEY is not set"),
    ],
)
def test_mistakes_are_told(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.delenv("MP_API_KEY", raising=False)
    with pytest.raises(InputError, match=message):
        run(["phases", "--output", str(tmp_path), "--reactants", *words])


def test_an_open_element_that_is_not_there_is_told(lips: PhaseDiagram) -> None:
    with pytest.raises(InputError, match="unknown open element 'Na'"):
        predict(lips, ("Li", "Li7P3S11"), "Na")


@pytest.mark.parametrize("text", ["{", '{"entries": []}', '[{"energy": 1}]', "[1]"])
def test_a_file_of_something_else_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "entries.json"
    path.write_text(text)
    with pytest.raises(InputError, match="no list of pymatgen ComputedEntry"):
        read_entries(path)


@pytest.mark.network
@pytest.mark.skipif("MP_API_KEY" not in os.environ, reason="needs a key of the Materials Project")
def test_the_materials_project_gives_entries() -> None:
    pytest.importorskip("mp_api")
    prediction = predict(hull(materials_project_entries(["Li", "P"]), ["Li", "P"]), ("Li", "P"))
    assert "Li3P" in prediction.products
