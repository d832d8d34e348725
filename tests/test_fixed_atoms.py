"""Fixed atoms have forces: constraints belong to dynamics, predictions and labels leave them out."""

from __future__ import annotations

import re

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, Hookean

from finetune.cli.sample import as_reference
from finetune.comparison import Compression, Errors, Labels, compare
from finetune.comparison.observable import single_points, starts
from finetune.comparison.runs import frames_of
from finetune.labelling import Calculated
from finetune.md import Langevin, Stage
from finetune.sampling.core import Limits, frozen

from .test_data_reading import VASP

FIXED = [0, 1, 2, 5]


def slab(seed: int = 0) -> Atoms:
    """Copper with fixed atoms off their places, and a spring that pulls two atoms together."""
    atoms = bulk("Cu", "fcc", a=3.6, cubic=True).repeat((2, 1, 1))
    atoms.rattle(0.1, seed=seed)
    atoms.set_constraint([FixAtoms(FIXED), Hookean(a1=6, a2=7, rt=0.5, k=3.0)])
    return atoms


def labels(atoms: Atoms) -> dict[str, np.ndarray]:
    """EMT's own energy, forces and stress, asked without any constraint."""
    free = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    free.calc = EMT()
    return {"energy": free.get_potential_energy(), "forces": free.get_forces(), "stress": free.get_stress()}


@pytest.fixture
def trajectory(tmp_path) -> str:
    """Labelled frames with fixed atoms, as a relaxation of a slab leaves them."""
    frames = [slab(seed) for seed in range(3)]
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, **labels(atoms))
    ase.io.write(tmp_path / "slab.traj", frames)
    return str(tmp_path / "slab.traj")


def test_labels_beside_themselves_have_no_error_and_slope_one_with_fixed_atoms(trajectory, tmp_path):
    columns = {"DFT": Labels(trajectory), "EMT": EMT()}
    found = compare(columns, [Errors(files=[trajectory])], tmp_path / "c", "DFT", progress=False)
    for name in columns:
        figures = found.results["Errors on labelled frames", name].measured.by_name()
        assert figures["forces MAE"].value == pytest.approx(0.0, abs=1e-3)
        assert figures["forces slope"].value == pytest.approx(1.0, abs=1e-6)
        assert figures["stress MAE"].value == pytest.approx(0.0, abs=1e-3)
    assert found.verdict("Errors on labelled frames", "EMT").word == "same"


def test_a_single_point_is_the_calculators_own_with_any_constraint():
    atoms = slab()
    point = single_points([atoms], EMT())[0]
    wanted = labels(atoms)
    assert float(point.energy[0]) == pytest.approx(wanted["energy"])  # without that of the spring
    np.testing.assert_allclose(point.forces.numpy(), wanted["forces"], atol=1e-10)
    assert len(atoms.constraints) == 2  # the structure itself keeps them


def test_compression_moves_fixed_atoms_with_the_cell(tmp_path):
    atoms = slab()
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    holes = Compression(files=["none"], pressure_GPa=20.0)
    np.testing.assert_allclose(holes._compress(atoms, EMT())[1], holes._compress(bare, EMT())[1], atol=1e-10)


def test_selective_dynamics_of_vasp_leave_the_forces_on_fixed_atoms(tmp_path):
    text = (VASP / "vasprun_pstress.xml").read_text()
    text = re.sub(r'(<varray name="forces" >\s*<v>)[^<]*', r"\1 0.5 0.25 0.125 ", text)
    mask = (
        '<varray name="selective" type="logical" ><v type="logical" > F F F </v><v type="logical" > T T T </v></varray>'
    )
    text = re.sub(r'(<structure name="initialpos" >.*?)(</structure>)', rf"\1{mask}\2", text, count=1, flags=re.DOTALL)
    (tmp_path / "vasprun.xml").write_text(text)
    assert ase.io.read(tmp_path / "vasprun.xml", format="vasp-xml").constraints
    files = [str(tmp_path / "vasprun.xml")]
    figures = Errors(files=files).measure(Labels(files).calculator(), tmp_path).by_name()
    assert (figures["forces MAE"].value, figures["forces slope"].value) == (0.0, pytest.approx(1.0))


def test_labels_that_a_calculator_makes_are_its_own_forces():
    labelled = Calculated("ase.calculators.emt.EMT").label(slab()).atoms
    wanted = labels(slab())
    np.testing.assert_allclose(labelled.arrays["REF_forces"], wanted["forces"], atol=1e-10)
    np.testing.assert_allclose(labelled.info["REF_stress"], wanted["stress"], atol=1e-12)
    assert labelled.info["REF_energy"] == pytest.approx(wanted["energy"])


def test_labels_of_sampled_frames_are_the_calculators_own_forces():
    frame = as_reference(frozen(slab(), EMT()))
    np.testing.assert_allclose(frame.arrays["REF_forces"], labels(slab())["forces"], atol=1e-10)
    assert frame.info["REF_energy"] == pytest.approx(labels(slab())["energy"])


def test_an_absurd_force_on_a_fixed_atom_is_absurd():
    atoms = slab()
    atoms.positions[0] += 0.45 * (atoms.positions[1] - atoms.positions[0])
    sizes = np.linalg.norm(labels(atoms)["forces"], axis=1)
    limit = 0.9 * sizes[FIXED].max()
    assert limit > np.delete(sizes, FIXED).max()
    assert "force above" in Limits(closest=0.1, force=limit).reason(frozen(atoms, EMT()))


def test_fixed_atoms_stay_in_place_in_the_dynamics_of_an_observable(trajectory, tmp_path):
    start = starts([trajectory])[0][1]
    frames = frames_of(
        start, EMT(), [Stage(Langevin(temperature_K=300.0, timestep_fs=2.0), ps=0.02)], tmp_path / "md", 5, 0
    )
    moved = np.linalg.norm(frames[-1].positions - start.positions, axis=1)
    assert moved[FIXED].max() < 1e-7
    assert moved[[6, 7]].min() > 1e-3


def test_the_recipe_of_the_documentation_writes_the_forces_on_fixed_atoms(root):
    text = (root / "docs/how-to/data.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith(('atoms.info["REF', 'atoms.arrays["REF'))]
    atoms = slab()
    atoms.calc = EMT()
    for line in lines:
        exec(line, {"atoms": atoms})
    assert len(lines) == 3
    np.testing.assert_allclose(atoms.arrays["REF_forces"], labels(slab())["forces"], atol=1e-10)
