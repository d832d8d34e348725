"""CIF files with two elements on one site and no occupancies are refused with the sites."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.data.structures import read_structure
from finetune.errors import InputError
from finetune.sampling.crystals import primitive_cells

from .commands import THEIR_WARNINGS, command

pytestmark = THEIR_WARNINGS

HEAD = """data_crystal
_cell_length_a 5.72
_cell_length_b 5.72
_cell_length_c 5.72
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M '{name}'
_symmetry_Int_Tables_number {number}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
"""
LOW, HIGH = HEAD.format(name="P 1", number=1), HEAD.format(name="F m -3 m", number=225)
LI = "Li1 Li 0.25 0.25 0.25\n"


def written(folder: Path, text: str, name: str = "crystal.cif") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "sites"),
    [
        (f"{LOW}S1 S 0 0 0\nS2 S 0.5 0 0.5\nP1 P 0.5 0 0.5\n{LI}", "1 sites.*S 1 P 1 at 0.500 0.000 0.500"),
        (f"{LOW}S2 S 0.5 0 0.5\nP1 P 0.501 0 0.5\n{LI}", "1 sites.*S 1 P 1 at 0.500 0.000 0.500"),
        (f"{LOW}S1 S 0 0 0\nP1 P 1 0 0\n{LI}", "1 sites.*S 1 P 1 at 0.000 0.000 0.000"),
        (f"{LOW}S1 S 0.3333 0.6667 0\nP1 P 0.33333 0.66667 0\nN1 N 0.3333 0.6667 0\n", "1 sites.*S 1 P 1 N 1 at 0.333"),
        (f"{HIGH}S1 S 0 0 0\nP1 P 0 0 0\n{LI}", "4 sites.*S 1 P 1 at 0.000 0.000 0.000; .* 0.500"),
        (f"{HIGH}S1 S 0 0 0\nP1 P 0.5 0.5 0\n{LI}", "4 sites.*S 1 P 1 at 0.000 0.000 0.000; .* 0.500"),
    ],
    ids=["same", "near", "image", "three elements", "symmetry", "equivalent by symmetry"],
)
def test_two_elements_on_one_site_are_refused(text: str, sites: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{sites}.*expected one atom on each.*add up to 1"):
        read_structure(str(written(tmp_path, text)))


def test_one_element_on_a_site_is_read_however_often_it_is_listed(tmp_path: Path) -> None:
    assert read_structure(str(written(tmp_path, f"{HIGH}S1 S 0 0 0\n{LI}"))).symbols.formula.count() == {
        "S": 4,
        "Li": 8,
    }
    twice = read_structure(str(written(tmp_path, f"{LOW}S1 S 0 0 0\nS2 S 0 0 0\n{LI}")))
    assert twice.symbols.formula.count() == {"S": 1, "Li": 1}


def test_a_folder_of_crystals_leaves_an_overfull_one_out(tmp_path: Path) -> None:
    written(tmp_path, f"{HIGH}S1 S 0 0 0\nP1 P 0 0 0\n{LI}", "overfull.cif")
    written(tmp_path, f"{HIGH}S1 S 0 0 0\n{LI}", "li2s.cif")
    for order in (False, True):
        found = primitive_cells(tmp_path, 1, 20, order)
        assert list(found) == ["Li2S"]
        assert len(found["Li2S"]) == 1


def test_a_command_names_the_sites_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, f"{LOW}S2 S 0.5 0 0.5\nP1 P 0.5 0 0.5\n{LI}")
    assert command("predict", "--model.potential", "chgnet", f"--data.predict={path}") != 0
    assert "sites of more than one atom (S 1 P 1 at 0.500 0.000 0.500)" in capsys.readouterr().err
