"""Data that was downloaded: model files, computed entries, crystals."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import pytest
import torch
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import (
    CompositionEnergyAdjustment,
    ComputedEntry,
    ConstantEnergyAdjustment,
    ManualEnergyAdjustment,
    TemperatureEnergyAdjustment,
)

import finetune
from finetune.backbones import _mace_files, _mace_models
from finetune.backbones.mace import MACE
from finetune.comparison.crystals import structure
from finetune.errors import InputError
from finetune.sampling.entries import read_entries

from ..structures import lithium, sulphide
from .payload import Marking, module


@pytest.fixture
def mark(tmp_path):
    """The file that a payload creates."""
    return tmp_path / "executed"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache of mace-torch, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = Path(_mace_models.get_cache_dir())
    place.mkdir(parents=True, exist_ok=True)
    assert tmp_path in place.parents
    return place


def cached(cache: Path, name: str) -> Path:
    """The file that mace-torch takes for a name."""
    last = _mace_models.URLS[name].rpartition("/")[2]
    return cache / "".join(c for c in last if c.isalnum() or c == "_")


@pytest.mark.parametrize("name", ["small", "medium-mpa-0", "off-small", "mh-1"])
def test_a_named_model_in_the_cache_that_is_not_the_published_file_is_not_opened(cache, mark, name):
    path = cached(cache, name)
    torch.save(Marking(mark), path)
    with pytest.raises(InputError, match="SHA-256") as told:
        finetune.load(f"mace:{name}", trusted=True)
    assert not mark.exists()
    assert _mace_files.SHA256[name] in str(told.value)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in str(told.value)


def test_a_named_model_without_a_known_sum_is_unpickled_only_when_it_is_trusted(cache, mark):
    name = "omol-extra-large"
    assert name not in _mace_files.SHA256
    torch.save(Marking(mark), cached(cache, name))
    with pytest.raises(InputError, match="is a Python pickle") as told:
        finetune.load(f"mace:{name}")
    assert not mark.exists()
    assert hashlib.sha256(cached(cache, name).read_bytes()).hexdigest() in str(told.value)


def test_all_names_but_one_have_a_sum_and_no_two_the_same():
    assert set(_mace_models.URLS) - set(_mace_files.SHA256) == {"omol-extra-large"}
    assert set(_mace_files.SHA256) <= set(_mace_models.URLS)
    sums = list(_mace_files.SHA256.values())
    assert len(set(sums)) == len(sums)
    assert all(len(one) == 64 and int(one, 16) for one in sums)


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_maces_own_classes_is_read_without_unpickling_and_is_the_same_model(tmp_path, monkeypatch):
    ours = MACE.tiny()
    torch.save(ours.model, tmp_path / "plain.model")
    loads = []
    real = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *given, **named: loads.append(named["weights_only"]) or real(*given, **named)
    )
    again = finetune.load(f"mace:{tmp_path}/plain.model")  # without trust
    assert loads == [True]
    for atoms in (sulphide(), lithium()):
        energies = [
            finetune.calculator(one, device="cpu", dtype="float64").get_potential_energy(atoms) for one in (ours, again)
        ]
        assert energies[1] == pytest.approx(energies[0], rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_payload_inside_a_model_of_maces_classes_is_not_executed(tmp_path, mark):
    model = MACE.tiny().model
    model.interactions[0].note = Marking(mark)
    torch.save(model, tmp_path / "evil.model")
    with pytest.raises(InputError, match="is a Python pickle"):
        finetune.load(f"mace:{tmp_path}/evil.model")
    assert not mark.exists()
    torch.load(tmp_path / "evil.model", weights_only=False)
    assert mark.exists()  # it would have been


def entry(**more) -> dict:
    return {
        "@module": "pymatgen.core.entries",
        "@class": "ComputedEntry",
        "composition": {"Li": 1.0},
        "energy": -1.9,
        "correction": 0.0,
        "entry_id": "Li",
        **more,
    }


@pytest.mark.parametrize("where", ["parameters", "data", "energy_adjustments", "composition", "entry_id"])
@pytest.mark.parametrize("kind", ["@class", "@callable"])
def test_a_file_of_entries_imports_no_module_that_it_names(tmp_path, mark, monkeypatch, where, kind):
    module(
        tmp_path / "payload_of_entries.py", mark, "class Payload:\n    from_dict = classmethod(lambda *given: 1.0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    named = {"@module": "payload_of_entries", kind: "Payload", "value": 1.0}
    content = {"energy_adjustments": [named], "entry_id": named}.get(where, {"x": named})
    path = tmp_path / "entries.json"
    path.write_text(json.dumps([entry(**{where: content})]))
    found = []
    with contextlib.suppress(InputError):
        found = read_entries(path)
    assert [one.energy for one in found] in ([], [pytest.approx(-1.9)])
    assert not mark.exists()


def test_corrections_of_entries_are_read_as_pymatgen_reads_them(tmp_path):
    adjustments = [
        CompositionEnergyAdjustment(-0.687, 1.0, 0.002, name="MP2020 anion correction (oxide)"),
        ConstantEnergyAdjustment(0.5),
        TemperatureEnergyAdjustment(-0.001, 300.0, 3.0),
        ManualEnergyAdjustment(0.25),
    ]
    made = [
        ComputedEntry("Li2O", -14.3, energy_adjustments=adjustments, parameters={"run_type": "GGA"}, entry_id="mp-1"),
        ComputedEntry("Li", -1.9, correction=0.1),
        ComputedEntry("P4", -21.0),
    ]
    (tmp_path / "entries.json").write_text(json.dumps([one.as_dict() for one in made]))
    found = read_entries(tmp_path / "entries.json")
    assert [one.energy for one in found] == pytest.approx([-15.137, -1.8, -21.0])
    assert [one.composition.reduced_formula for one in found] == ["Li2O", "Li", "P"]
    assert found[0].parameters == {"run_type": "GGA"}


def test_a_file_of_crystals_imports_no_module_that_it_names(tmp_path, mark, monkeypatch):
    module(
        tmp_path / "payload_of_crystals.py", mark, "class Payload:\n    from_dict = classmethod(lambda *given: 1.0)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    crystal = Structure(Lattice.cubic(3.5), ["Li", "Li"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    content = crystal.as_dict()
    named = {"@module": "payload_of_crystals", "@class": "Payload"}
    content["sites"][0]["properties"] = {"magmom": named}
    content["properties"] = {"x": named}
    found = structure({"structure": content})
    assert not mark.exists()
    assert found == crystal
