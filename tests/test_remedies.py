"""Remedies name what was meant: elements by their names, missing values, ionic steps, settings that differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.backbones.ace import ACE
from finetune.backbones.chgnet import CHGNet
from finetune.data.checking import problems
from finetune.data.reading import read
from finetune.errors import InputError
from finetune.training.preparation import described_fit

HEAD = 'Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:REF_forces:R:3'


def written(folder: Path, comment: str, symbol: str = "Li") -> Path:
    path = folder / "a.extxyz"
    path.write_text(f"1\n{HEAD} {comment}\n{symbol} 0 0 0 0.1 0 0\n")
    return path


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        *(("Lithium", "Li"), ("lithium", "Li"), ("Sulfur", "S"), ("Sulphur", "S"), ("Phosphorous", "P")),
        *(("Iron", "Fe"), ("Aluminum", "Al"), ("Cesium", "Cs"), ("Natrium", "Na"), ("LiA", "Li")),
    ],
)
def test_the_name_of_an_element_is_answered_with_its_symbol(name: str, symbol: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"element {name} is not known. Write chemical symbols: {symbol}$"):
        read(written(tmp_path, "REF_energy=-1", name))
    with pytest.raises(InputError, match=f"element '{name}' is not known. Write {symbol}$"):
        ACE([name], nmax=[2], lmax=[0], functions=None, cutoff=4.0)


@pytest.mark.parametrize("symbol", ["Lx", "Qq", "Q"])
def test_letters_without_an_element_get_no_arbitrary_one(symbol: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"element {symbol} is not known. Write chemical symbols$"):
        read(written(tmp_path, "REF_energy=-1", symbol))


@pytest.mark.parametrize("empty", ['REF_energy=""', "REF_energy=", 'REF_energy=" "', "REF_energy=[]", "REF_energy={}"])
@pytest.mark.parametrize("place", ["{} pbc=\"T T F\" name='x= y'", 'pbc="T T F" {}'])
def test_a_key_without_a_value_is_named_and_takes_no_other_key_with_it(empty: str, place: str, tmp_path: Path) -> None:
    (frame,) = read(written(tmp_path, place.format(empty)))
    assert frame.atoms.pbc.tolist() == [True, True, False]
    assert list(problems(frame)) == [
        "has energy '' (a key without a value), which is not a number; mend it or leave the label out"
    ]


def test_other_keys_without_a_value_do_not_lose_labels(tmp_path: Path) -> None:
    (frame,) = read(written(tmp_path, 'comment="" REF_energy=-1.5 note= REF_stress = "1 0 0 0 1 0 0 0 1" text="a= b="'))
    assert frame.given["energy"] == -1.5
    assert frame.labels.stress[0].diagonal().tolist() == [1.0, 1.0, 1.0]
    assert frame.atoms.info["comment"] == frame.atoms.info["note"] == ""
    assert frame.atoms.info["text"] == "a= b="


def test_two_architectures_of_one_model_are_described_by_the_settings_that_differ() -> None:
    one, two = (CHGNet(None, {**CHGNet.tiny().architecture, "n_conv": n}).config() for n in (2, 3))
    assert described_fit(one, two) == "CHGNet with n_conv 2"
    assert described_fit(two, one) == "CHGNet with n_conv 3"
    many = CHGNet("0.3.0").config()
    assert described_fit(many, one).startswith("CHGNet with ")
    assert described_fit(many, one).endswith(" more")
    assert len(described_fit(many, one)) < 160
