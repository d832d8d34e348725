"""The ASE calculator: equal to upstream's own, and a calculator like any other."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS

import finetune
from finetune.adapting import Shifted
from finetune.backbones import _mace_models
from finetune.backbones.chgnet import CHGNet
from finetune.backbones.mace import MACE
from finetune.calculators import PotentialCalculator, calculator
from finetune.errors import InputError

from .contract import built
from .structures import PERIODIC, STRUCTURES, lithium, molecule, of_family, sulphide
from .tolerances import close

TWO_HEADS = {
    "heads": ["foundation", "dft"],
    "atomic_energies": [[-1.0, -4.0, -3.0], [-2.0, -5.0, -1.0]],
    "atomic_inter_scale": [20.0, 30.0],
    "atomic_inter_shift": [0.1, 0.2],
}


@contextlib.contextmanager
def chgnet_in(dtype: torch.dtype) -> Iterator[None]:
    """Let the chgnet package compute in a dtype: it has single precision written into it."""
    import chgnet.graph.converter
    import chgnet.graph.crystalgraph
    import chgnet.model.model

    homes = (chgnet.graph.converter, chgnet.graph.crystalgraph, chgnet.model.model)
    before = torch.get_default_dtype(), [home.TORCH_DTYPE for home in homes]
    try:
        torch.set_default_dtype(dtype)
        for home in homes:
            home.TORCH_DTYPE = dtype
        yield
    finally:
        torch.set_default_dtype(before[0])
        for home, value in zip(homes, before[1], strict=True):
            home.TORCH_DTYPE = value


def upstream_chgnet(name: str, atoms: Atoms, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """Results of `chgnet.model.CHGNetCalculator`."""
    from chgnet.model import CHGNet as Upstream
    from chgnet.model import CHGNetCalculator

    with chgnet_in(dtype), contextlib.redirect_stdout(io.StringIO()):
        model = Upstream.load(model_name=name, verbose=False, use_device="cpu").to(dtype)
        if dtype == torch.float64:
            model.composition_model.float()  # it makes its input single precision itself
        theirs = CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="ignore", return_site_energies=True)
        theirs.calculate(atoms)
    return theirs.results


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("name", "structure"),
    [("0.3.0", "sulphide"), ("0.3.0", "glass"), ("0.3.0", "interface"), ("0.2.0", "glass"), ("r2scan", "glass")],
)
def test_chgnet_equals_upstream(name, structure, dtype):
    atoms = STRUCTURES[structure]()
    ours = calculator(f"chgnet:{name}", device="cpu", dtype=dtype)
    ours.calculate(atoms)
    theirs = upstream_chgnet(name, atoms, getattr(torch, dtype))
    assert np.abs(ours.results["forces"]).max() > 0.1
    n = len(atoms)
    close(ours.results["energy"] / n, theirs["energy"] / n, f"upstream energy, {dtype}")
    close(ours.results["forces"], theirs["forces"], f"upstream, {dtype}")
    close(ours.results["energies"], theirs["energies"], f"upstream energy, {dtype}")
    close(ours.results["magmoms"], theirs["magmoms"], f"upstream, {dtype}")
    close(ours.get_stress(atoms), voigt(theirs["stress"]), f"upstream, {dtype}")


def voigt(stress: np.ndarray) -> np.ndarray:
    return np.array([stress[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))])


@contextlib.contextmanager
def untouched_ase() -> Iterator[None]:
    """Undo what `MACECalculator` does to ASE's base class and to torch's default dtype."""
    properties, dtype = list(Calculator.implemented_properties), torch.get_default_dtype()
    try:
        yield
    finally:
        Calculator.implemented_properties[:] = properties
        torch.set_default_dtype(dtype)


def upstream_mace(model: torch.nn.Module, atoms: Atoms, dtype: str, **options: str) -> dict[str, np.ndarray]:
    """Results of `mace.calculators.MACECalculator`, of a copy of the model."""
    from mace.calculators import MACECalculator

    with untouched_ase():
        theirs = MACECalculator(models=copy.deepcopy(model), device="cpu", default_dtype=dtype, **options)
        theirs.calculate(atoms)
    return theirs.results


def assert_equal_to_mace(ours: PotentialCalculator, theirs: dict[str, np.ndarray], atoms: Atoms, dtype: str) -> None:
    ours.calculate(atoms)
    assert np.abs(theirs["forces"]).max() > 0.01
    close(ours.results["energy"] / len(atoms), theirs["energy"] / len(atoms), f"upstream energy, {dtype}")
    close(ours.results["forces"], theirs["forces"], f"upstream, {dtype}")
    close(ours.results["energies"], theirs["energies"], f"upstream energy, {dtype}")
    if atoms.pbc.all():
        close(ours.results["stress"], theirs["stress"], f"upstream, {dtype}")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("structure", [*PERIODIC, "molecule"])
def test_mace_equals_upstream(structure, dtype):
    atoms, potential = STRUCTURES[structure](), built("mace" if dtype == "float64" else "mace float32")
    theirs = upstream_mace(potential.model, atoms, dtype)
    assert_equal_to_mace(calculator(potential, device="cpu", dtype=dtype), theirs, atoms, dtype)


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Somebody's MACE file with two heads, written as mace writes it."""
    torch.manual_seed(0)
    with _mace_models.default_dtype(torch.float64):
        model = _mace_models.build({**built("mace").architecture, **TWO_HEADS})
    torch.save(model, tmp_path / "foreign.model")
    return tmp_path / "foreign.model"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("head", ["foundation", "dft"])
def test_a_named_head_of_a_foreign_mace_file_equals_upstream(foreign, head):
    atoms = of_family("interface")
    ours = calculator(MACE(str(foreign), head=head, dtype="float64", trusted=True), device="cpu")
    theirs = upstream_mace(torch.load(foreign, weights_only=False), atoms, "float64", head=head)
    assert_equal_to_mace(ours, theirs, atoms, "float64")


@pytest.mark.filterwarnings("ignore")
def test_a_mace_cut_down_to_the_elements_in_use_says_the_same(foreign):
    whole = MACE(str(foreign), head="dft", dtype="float64", trusted=True)
    cut = MACE(str(foreign), head="dft", elements=["S", "Li"], dtype="float64", trusted=True)
    assert cut.elements == {3, 16}
    atoms = sulphide()
    one, other = calculator(whole, device="cpu"), calculator(cut, device="cpu")
    close(other.get_potential_energy(atoms), one.get_potential_energy(atoms), "identity, float64")
    close(other.get_forces(atoms), one.get_forces(atoms), "identity, float64")
    with pytest.raises(InputError, match="does not know P"):
        other.get_potential_energy(Atoms("P"))


@pytest.mark.filterwarnings("ignore")
def test_a_head_must_be_named_where_there_are_several(foreign):
    with pytest.raises(InputError, match="heads foundation, dft; name the one to use"):
        MACE(str(foreign), trusted=True)
    with pytest.raises(InputError, match="unknown head 'dfd'; did you mean 'dft'"):
        MACE(str(foreign), head="dfd", trusted=True)


def test_a_model_of_many_names_is_one_model(tmp_path):
    potential = CHGNet.tiny().eval()
    finetune.save(potential, tmp_path / "tiny.pt")
    atoms = lithium()
    expected = calculator(potential, device="cpu").get_potential_energy(atoms)
    for model in (tmp_path / "tiny.pt", str(tmp_path / "tiny.pt"), potential):
        assert finetune.calculator(model, device="cpu").get_potential_energy(atoms) == expected
    assert finetune.calculator("chgnet").potential.config() == finetune.calculator("chgnet:0.3.0").potential.config()


def test_results_have_the_shapes_and_names_of_ase():
    atoms = of_family("interface")
    atoms.calc = calculator(CHGNet.tiny(), device="cpu")
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    assert atoms.get_forces().shape == (len(atoms), 3)
    assert atoms.get_stress().shape == (6,)
    assert atoms.get_potential_energies().sum() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert atoms.get_magnetic_moments().shape == (len(atoms),)
    assert all(isinstance(value, float | np.ndarray) for value in atoms.calc.results.values())


def test_stress_of_a_molecule_is_not_implemented_rather_than_nan():
    atoms = molecule()
    atoms.calc = calculator(CHGNet.tiny(), device="cpu")
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_no_atoms_are_refused():
    with pytest.raises(InputError, match="no atoms"):
        calculator(CHGNet.tiny(), device="cpu").get_potential_energy(Atoms())


def test_dtype_and_device_are_options():
    potential = CHGNet.tiny()
    assert calculator(potential, device="cpu").potential.dtype == torch.float64
    assert calculator(potential, device="cpu", dtype="float32").potential.dtype == torch.float32
    assert calculator(potential, device="cpu", dtype="float64").potential.device.type == "cpu"


def test_two_calculators_of_one_potential_do_not_change_each_other():
    potential, atoms = Shifted(CHGNet.tiny(), {3: -1.0}), lithium()
    first = calculator(potential, device="cpu", dtype="float64")
    before = first.get_potential_energy(atoms)
    calculator(potential, device="cpu", dtype="float32")
    first.reset()
    assert first.get_potential_energy(atoms) == before


def test_a_moved_atom_is_computed_anew_and_results_stay_with_their_owner():
    atoms = lithium()
    atoms.calc = calculator(CHGNet("0.3.0"), device="cpu")
    forces = atoms.get_forces()
    kept = forces.copy()
    atoms.positions[0, 0] += 0.1
    assert not np.allclose(atoms.get_forces(), kept, atol=1e-3)
    assert np.array_equal(forces, kept)
    forces[:] = 0
    assert np.abs(atoms.get_forces()).max() > 0


def test_a_cell_relaxes_to_less_energy_and_no_stress():
    atoms = lithium()
    atoms.calc = calculator("chgnet", device="cpu", dtype="float64")
    atoms.set_constraint(FixAtoms([0]))
    before = atoms.get_potential_energy()
    assert BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.02, steps=100)
    assert atoms.get_potential_energy() < before - 0.01
    assert np.abs(atoms.get_stress()).max() < 2e-3
    assert atoms.get_volume() == pytest.approx(20.3 * 2, rel=0.05)  # bcc lithium, Å³ per atom
