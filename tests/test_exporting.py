"""Exported potentials, read back by other people's code."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml

from finetune import models
from finetune.adapting import Shifted
from finetune.graph import edge_vectors, neighbour_graph

from .commands import command
from .structures import frames, lithium, of_family
from .tolerances import close

ACE = models.backbone("ace")
REFERENCES = {3: -1.5, 15: 0.75, 16: 2.25}


@pytest.fixture(scope="module")
def reader():
    """`ace_jax`, an implementation of its own, in double precision."""
    ace_jax = pytest.importorskip("ace_jax", reason="pip install 'finetune-interface[yace]'")
    import jax

    jax.config.update("jax_enable_x64", True)
    return ace_jax.ACECalculator


def written(potential, path: Path) -> Path:
    model = path / "model.pt"
    models.save(potential, model)
    assert command("export", model, "--format", "yace", "--output", path / "model.yace") == 0
    return path / "model.yace"


ORDER_FOUR = "order four with l"
VARIANTS = {"linear": ACE.tiny, **{name: (lambda name=name: ACE.variants()[name]) for name in ACE.variants()}}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("finnis-sinclair core", 3),
        *(pytest.param(name, 20, marks=pytest.mark.slow) for name in (*VARIANTS, ORDER_FOUR)),
    ],
)
def test_another_implementation_reads_the_same_energies_and_forces(name, count, reader, tmp_path):
    make = VARIANTS.get(name, lambda: ACE._random(nmax=[3, 1, 1, 1], lmax=[0, 3, 2, 2]))
    potential = Shifted(make(), REFERENCES).eval()
    assert potential.potential.lmax >= 2 or name == "pairs only"
    calculator = reader(str(written(potential, tmp_path)))
    chosen = frames()[:: 60 // count][:count]
    squeezed = lithium()
    squeezed.set_cell(squeezed.cell * 0.62, scale_atoms=True)  # into the core repulsion
    for atoms in [*chosen, squeezed]:
        predicted = potential(potential.collate([potential.graph(atoms)]))
        there = atoms.copy()
        there.calc = calculator
        close(predicted.energy, [there.get_potential_energy()], "yace energy")
        close(predicted.forces, there.get_forces(), "yace forces")
        close(predicted.stress[0], there.get_stress(voigt=False), "yace stress")
        assert np.abs(there.get_forces()).max() > 1e-3
    assert len(chosen) == count


def test_the_file_is_plain_yaml_with_numbers(tmp_path):
    potential = ACE.variants()["finnis-sinclair core"]
    text = written(potential, tmp_path).read_text()
    functions = yaml.safe_load("functions:" + text.split("functions:")[1])["functions"]
    values = [x for rows in functions.values() for row in rows for x in row["ctildes"]]
    assert all(isinstance(x, float) for x in values)
    assert {row["rank"] for row in functions[0]} == {1, 2, 3, 4}
    assert all(len(row["ms_combs"]) == row["rank"] * row["num_ms_combs"] for row in functions[0])


def test_the_lammps_input_names_what_is_beside_it(tmp_path):
    path = written(ACE.tiny(), tmp_path)
    words = path.with_suffix(".in").read_text().split()
    assert "model.data" in words
    assert words[words.index("pair_coeff") + 1 :][:6] == ["*", "*", "model.yace", "Li", "P", "S"]
    atoms = ase.io.read(path.with_suffix(".data"), format="lammps-data", atom_style="atomic")
    assert set(atoms.numbers.tolist()) == {3, 15, 16}


def test_a_structure_of_the_users_own_is_taken(tmp_path):
    models.save(ACE.tiny(), tmp_path / "model.pt")
    glass = of_family("amorphous")
    ase.io.write(tmp_path / "glass.xyz", glass)
    arguments = ["--format", "yace", "--output", tmp_path / "x.yace", "--structure", tmp_path / "glass.xyz"]
    assert command("export", tmp_path / "model.pt", *arguments) == 0
    atoms = ase.io.read(tmp_path / "x.data", format="lammps-data", atom_style="atomic")
    assert sorted(atoms.numbers) == sorted(glass.numbers)


def test_a_checkpoint_of_one_file_is_the_same_model(tmp_path):
    potential = Shifted(ACE.tiny(), REFERENCES).eval()
    models.save(potential, tmp_path / "model.pt")
    assert command("export", tmp_path / "model.pt", "--output", tmp_path / "copy.pt") == 0
    graph = potential.collate([potential.graph(lithium())])
    close(models.load(tmp_path / "copy.pt")(graph).energy, potential(graph).energy, "identity, float64")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chgnet", "--format", "yace"], "format for CHGNet (LAMMPS has no CHGNet: run it by finetune md"),
        (["model.pt", "--format", "yaec"], "yace"),
        (["model.pt", "--output", "model.pt"], "is there already"),
        (["model.pt", "--format", "yace", "--structure", "nowhere.xyz"], "no file nowhere.xyz"),
        (["model.pt", "--format", "yace", "--structure", "iron.xyz"], "contains Fe"),
        (["model.pt", "--format", "yace", "--structure", "molecule.xyz"], "no cell"),
        (["model.pt", "--format", "yace", "--output", "model.data"], "beside the model"),
        (["model.pt", "--format", "yace", "--output", "my model.yace"], "several words"),
    ],
)
def test_what_cannot_be_exported_is_told(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    models.save(ACE.tiny(), tmp_path / "model.pt")
    cell = 'Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3 pbc="T T T"'
    (tmp_path / "iron.xyz").write_text(f"1\n{cell}\nFe 0 0 0\n")
    (tmp_path / "molecule.xyz").write_text("1\n\nS 0 0 0\n")
    assert command("export", *arguments) == 1
    assert words in capsys.readouterr().err


STRUCTURES = (lambda: of_family("amorphous"), lambda: of_family("interface"), lithium)


def exported(potential, format: str, path: Path) -> Path:
    models.save(potential, path / "model.pt")
    file = path / f"potential.{format}"
    assert command("export", path / "model.pt", "--format", format, "--output", file) == 0
    return file


def as_mace_reads(model, atoms) -> dict[str, torch.Tensor]:
    """The tensors that LAMMPS hands to a MACE, without domain decomposition: no atom is a ghost."""
    graph = neighbour_graph(atoms, float(model.r_max))
    kinds = [model.atomic_numbers.tolist().index(z) for z in atoms.numbers]
    attributes = torch.nn.functional.one_hot(torch.tensor(kinds), len(model.atomic_numbers)).double()
    return {
        "batch": graph["batch"],
        "cell": graph["cell"][0],
        "edge_index": graph["edge_index"],
        "node_attrs": attributes,
        "positions": graph["positions"].clone().requires_grad_(True),
        "ptr": torch.tensor([0, len(atoms)]),
        "shifts": graph["shifts"] @ graph["cell"][0],
        "unit_shifts": graph["shifts"],
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", STRUCTURES)
def test_mace_for_lammps_gives_our_energies_and_forces(make, tmp_path):
    potential, atoms = Shifted(models.load("mace:mini").double(), REFERENCES).eval(), make()
    model = torch.jit.load(exported(potential, "lammps", tmp_path))
    out = model(as_mace_reads(model, atoms), torch.ones(len(atoms), dtype=torch.float64), False)
    predicted = potential(potential.collate([potential.graph(atoms)]))
    close(out["total_energy_local"], predicted.energy, "identity, float64")
    close(out["forces"], predicted.forces, "identity, float64")
    assert predicted.forces.abs().max() > 0.1
    text = (tmp_path / "potential.in").read_text()
    assert "mace no_domain_decomposition" in text
    assert "* * potential.lammps Li O" in text


class AsLammps:
    """What LAMMPS' ML-IAP hands over, for one process in which no atom is a ghost: r_ij = r_j - r_i, f_i += f_ij."""

    def __init__(self, potential, wrapped, atoms) -> None:
        graph = potential.graph(atoms)
        self.pair_i, self.pair_j = graph["edge_index"]
        self.rij, self.npairs = edge_vectors(graph), len(graph["shifts"])
        self.nlocal = self.ntotal = len(atoms)
        self.elems = [wrapped.element_types.index(symbol) for symbol in atoms.get_chemical_symbols()]
        self.eatoms, self.energy = torch.zeros(len(atoms), dtype=torch.float64), 0.0
        self.forces = torch.zeros(len(atoms), 3, dtype=torch.float64)

    def forward_exchange(self, given, taken, length) -> None:
        taken.copy_(given)

    def reverse_exchange(self, given, taken, length) -> None:
        taken.copy_(given)

    def update_pair_forces_gpu(self, pairs) -> None:
        self.forces.index_add_(0, self.pair_i, pairs).index_add_(0, self.pair_j, pairs, alpha=-1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", STRUCTURES)
def test_mace_for_mliap_gives_our_energies_and_forces(make, tmp_path):
    potential, atoms = Shifted(models.load("mace:mini").double(), REFERENCES).eval(), make()
    wrapped = torch.load(exported(potential, "mliap", tmp_path), weights_only=False)
    data = AsLammps(potential, wrapped, atoms)
    wrapped.compute_forces(data)
    predicted = potential(potential.collate([potential.graph(atoms)]))
    close(data.energy, predicted.energy[0], "identity, float64")
    close(data.eatoms, predicted.energies, "identity, float64")
    close(data.forces, predicted.forces, "identity, float64")
    assert "mliap unified potential.mliap 0" in (tmp_path / "potential.in").read_text()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", STRUCTURES)
def test_chgnet_goes_back_to_its_own_package(make, tmp_path, capsys):
    from chgnet.model import CHGNet as Upstream
    from chgnet.model import CHGNetCalculator

    potential, atoms = Shifted(models.load("chgnet"), REFERENCES).eval(), make()
    theirs = CHGNetCalculator(Upstream.from_file(exported(potential, "chgnet", tmp_path)), use_device="cpu")
    theirs.calculate(atoms)
    predicted = potential(potential.collate([potential.graph(atoms)]))
    n = len(atoms)
    close(theirs.results["energy"] / n, predicted.energy[0] / n, "upstream energy, float32")
    close(theirs.results["forces"], predicted.forces, "upstream, float32")
    assert command("export", "chgnet", "--format", "lammps") == 1
    assert "LAMMPS has no CHGNet" in capsys.readouterr().err
