"""Linear potentials that are solved for: the minimum is one, and a second fit repeats it to the last digit."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune import models
from finetune.adapting import Shifted
from finetune.data.batching import Batch, collate_batch
from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.errors import InputError
from finetune.loss import Loss
from finetune.training.closed_form import ClosedForm, NormalEquations, gather, solve, take_up

from .commands import THEIR_WARNINGS, command
from .structures import ROOT
from .tolerances import close

LOSS = Loss("mse", energy=1.0, forces=3.0, stress=0.5)


def small(**options) -> Shifted:
    sizes = {"nmax": [6, 2, 2, 1], "lmax": [0, 2, 1, 0], "functions": None, "cutoff": 5.0}
    return Shifted(models.backbone("ace")(["Li", "P", "S"], **{**sizes, **options}))


@functools.cache
def labelled(part: str) -> list[Frame]:
    return [frame for frame in read(ROOT / f"data/starting/{part}.extxyz") if len(frame.atoms) < 25][:12]


def batches(potential: Shifted, part: str = "train", size: int = 3) -> list[Batch]:
    frames = labelled(part)
    graphs = [potential.graph(frame.atoms) for frame in frames]
    labels = [frame.labels for frame in frames]
    parts = [list(range(i, min(i + size, len(frames)))) for i in range(0, len(frames), size)]
    return [collate_batch(potential.collate, graphs, labels, part) for part in parts]


def fitted(settings: ClosedForm, loss: Loss = LOSS, **options) -> Shifted:
    potential = small(**options)
    valid = gather(potential, batches(potential, "valid"))
    take_up(potential, solve(gather(potential, batches(potential)), valid, loss, settings))
    return potential


def total_loss(potential: Shifted, part: str = "train") -> torch.Tensor:
    """The loss over all frames as the LightningModule works it out, with autograd."""
    whole = batches(potential, part, size=100)[0]
    return LOSS(potential(whole.graph), whole.labels, whole.n_atoms)[0]


@pytest.mark.parametrize("core", [None, {}], ids=["no core", "core"])
def test_the_gradient_of_loss_and_ridge_vanishes_at_the_solution(core):
    potential = small(core=core)
    equations = gather(potential, batches(potential))
    solution = solve(equations, None, LOSS, ClosedForm(ridge=1e-6, smoothness=2.0))
    take_up(potential, solution)
    potential.train()
    ace = potential.potential
    (gradient,) = torch.autograd.grad(total_loss(potential), ace.coefficients)
    square, right, _ = equations.weighted(LOSS)
    largest = largest_eigenvalue(square, solution.scale)
    with torch.no_grad():
        ridge = 2 * solution.strength * largest * ace.coefficients[:, 0].flatten()
    scaled = 2 * right[: len(ridge)] / solution.scale
    assert float((gradient.flatten() + ridge).norm() / scaled.norm()) < 1e-8


def largest_eigenvalue(square: torch.Tensor, scale: torch.Tensor) -> float:
    c = len(scale)
    inverse = torch.linalg.pinv(square[c:, c:], hermitian=True)
    reduced = square[:c, :c] - square[:c, c:] @ inverse @ square[c:, :c]
    return float(torch.linalg.eigvalsh(reduced / scale[:, None] / scale)[-1])


def test_the_normal_equations_are_those_of_the_loss():
    potential = small()
    equations = gather(potential, batches(potential))
    square, right, at_zero = equations.weighted(LOSS)
    rng = torch.Generator().manual_seed(0)
    w = torch.randn(len(right), dtype=torch.float64, generator=rng) * 1e-4
    expected = w @ square @ w - 2 * right @ w + at_zero
    potential.potential.set_coefficients(w[:-3])
    potential.add(dict(zip((3, 15, 16), w[-3:].tolist(), strict=True)))
    close(total_loss(potential).detach() / expected, 1.0, "identity, float64")


def test_no_other_coefficients_are_better():
    potential = fitted(ClosedForm(ridge=1e-10))
    best = float(total_loss(potential).detach())
    rng = torch.Generator().manual_seed(0)
    ace = potential.potential
    for size in (1e-4, 1e-2):
        for _ in range(3):
            step = (
                size * ace.coefficients.abs() * torch.randn(ace.coefficients.shape, dtype=torch.float64, generator=rng)
            )
            with torch.no_grad():
                ace.coefficients.add_(step)
                assert float(total_loss(potential).detach()) > best
                ace.coefficients.sub_(step)


def test_a_potential_that_made_the_labels_is_found_again():
    """Exact answer: labels by an expansion with known coefficients give these coefficients back."""
    few = {"nmax": [4, 2], "lmax": [0, 1], "core": {}}
    truth = small(**few).eval()
    with torch.no_grad():
        truth.potential.coefficients.normal_(std=1e-3, generator=torch.Generator().manual_seed(2))
    truth.add({3: -1.0, 15: 2.0, 16: 0.5})
    potential = small(**few)
    equations = NormalEquations(potential)
    for batch in batches(potential):
        equations.add(Batch(batch.graph, truth(batch.graph), batch.frames))
    take_up(potential, solve(equations, None, LOSS, ClosedForm(ridge=0.0)))
    graph = batches(potential, "valid")[0].graph
    one, other = truth(graph), potential.eval()(graph)
    close(other.energy, one.energy, "closed form")
    close(other.forces, one.forces, "closed form")
    close(other.stress, one.stress, "closed form")
    close(potential.references[[3, 15, 16]], [-1.0, 2.0, 0.5], "closed form")


def test_labels_that_are_not_known_have_no_part():
    potential = small()
    whole = batches(potential)[0]
    labels = whole.labels
    nothing = torch.full_like
    without = type(labels)(
        labels.energy, nothing(labels.forces, torch.nan), nothing(labels.stress, torch.nan), labels.energies
    )
    both, energies = NormalEquations(potential), NormalEquations(potential)
    both.add(whole)
    energies.add(Batch(whole.graph, without, whole.frames))
    assert energies.counts == {"energy": len(whole), "forces": 0, "stress": 0}
    close(energies.square["energy"], both.square["energy"], "identity, float64")
    assert torch.isfinite(energies.weighted(LOSS)[0]).all()


def test_batches_of_any_size_give_the_same_equations():
    potential = small()
    one, other = (gather(potential, batches(potential, size=size)) for size in (1, 7))
    for term in one.square:
        size = one.square[term].abs().max()
        close(other.square[term] / size, one.square[term] / size, "identity, float64")


def test_ridge_by_validation_is_the_best_on_validation_frames():
    chosen = float(total_loss(fitted(ClosedForm("validation")), "valid").detach())
    others = [float(total_loss(fitted(ClosedForm(ridge)), "valid").detach()) for ridge in (1e-12, 1e-8, 1e-4, 1e-2)]
    assert chosen <= min(others) * (1 + 1e-9)


def test_ridge_by_evidence_tells_noise_from_signal():
    """Labels with more noise ask for a stronger ridge."""
    strengths = []
    for noise in (0.0, 0.3):
        potential = small()
        equations = NormalEquations(potential)
        rng = torch.Generator().manual_seed(3)
        for batch in batches(potential):
            labels = batch.labels
            forces = labels.forces + noise * torch.randn(labels.forces.shape, dtype=torch.float64, generator=rng)
            equations.add(Batch(batch.graph, type(labels)(labels.energy, forces, labels.stress), batch.frames))
        strengths.append(solve(equations, None, LOSS, ClosedForm("evidence")).strength)
    assert strengths[0] < strengths[1] < 1e-1


def test_what_cannot_be_solved_for_is_refused():
    with pytest.raises(InputError, match="not linear"):
        NormalEquations(Shifted(models.backbone("chgnet").tiny()))
    with pytest.raises(InputError, match="ridge is -1"):
        ClosedForm(-1.0)
    potential = small()
    empty = NormalEquations(potential)
    with pytest.raises(InputError, match="no training frame"):
        solve(empty, None, LOSS, ClosedForm())
    with pytest.raises(InputError, match="evidence"):
        solve(gather(potential, batches(potential)), None, LOSS, ClosedForm())


SMALL = [
    "fit", "-c", ROOT / "configs/base.yaml", "-c", ROOT / "configs/ace.yaml",
    "--model.potential.init_args.functions", "60", "--model.potential.init_args.nmax", "[6,2,2,1]",
    "--model.potential.init_args.lmax", "[0,2,2,0]", "--model.potential.init_args.cutoff", "5",
]  # fmt: skip


@THEIR_WARNINGS
def test_two_fits_are_the_same_to_the_last_bit(tmp_path: Path):
    weights = []
    for name in ("one", "two"):
        assert not command(*SMALL, "--trainer.default_root_dir", str(tmp_path / name))
        weights.append(models.load(tmp_path / name).state_dict())
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert float(weights[0]["potential.coefficients"].abs().max()) > 0


@THEIR_WARNINGS
def test_gradient_epochs_go_on_from_the_solution(tmp_path: Path):
    nonlinear = ["--model.potential.init_args.exponents", "[1,0.5]", "--model.groups", "{}"]
    nonlinear += ["--trainer.max_epochs", "4", "--model.optimizer", "torch.optim.AdamW", "--model.optimizer.lr", "1e-3"]
    assert not command(*SMALL, *nonlinear, "--trainer.default_root_dir", tmp_path)
    rows = np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True)
    assert rows["trainloss"][3] < rows["trainloss"][1]
    assert np.isfinite(rows["validloss"]).all()
    state = models.load(tmp_path / "last.ckpt").state_dict()
    assert float(state["potential.coefficients"][:, 1].abs().max()) > 0
    unit = torch.eye(*state["potential.mixing"].shape[2::2])
    assert not torch.equal(state["potential.mixing"][0, 0, :, 0].double(), unit.double())


@THEIR_WARNINGS
def test_lbfgs_lowers_the_loss_of_all_frames_in_one_batch(tmp_path: Path):
    assert not command(*SMALL, "--trainer.default_root_dir", tmp_path / "solved")
    options = ["--model.potential", tmp_path / "solved", "--model.solve", "null", "--model.groups", "{radial: 0}"]
    options += ["--model.optimizer", "torch.optim.LBFGS", "--trainer.gradient_clip_val", "null"]
    options += ["--data.batch_edges", "10000000", "--model.schedule", "constant", "--trainer.max_epochs", "3"]
    configs = SMALL[:5]
    assert not command(*configs, *options, "--trainer.default_root_dir", tmp_path / "refined")
    rows = np.genfromtxt(tmp_path / "refined/metrics.csv", delimiter=",", names=True)
    assert rows["trainloss"][2] < rows["trainloss"][0]


@THEIR_WARNINGS
def test_a_solved_model_is_tested_as_it_is(tmp_path: Path, capsys):
    """The config says solve; judging the model must not solve, or forget, anything."""
    assert not command(*SMALL, "--trainer.default_root_dir", tmp_path)
    after = json.loads((tmp_path / "after.json").read_text())["test"]["all"]["forces_mae"]
    capsys.readouterr()
    assert not command("test", *SMALL[1:], "--ckpt_path", "best", "--trainer.default_root_dir", tmp_path)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "test/forces_mae" in line]
    assert float(line.split()[-2]) == pytest.approx(after / 1000, rel=0.05)


@THEIR_WARNINGS
def test_averaged_weights_are_refused(tmp_path: Path, capsys):
    average = '[{"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging"}]'
    assert command(*SMALL, "--trainer.callbacks", average, "--trainer.default_root_dir", tmp_path) == 1
    assert "--trainer.callbacks null" in capsys.readouterr().err


def test_energies_alone_are_enough_for_the_evidence():
    """More coefficients than labels: the fit passes through all of them, and the score stays a number."""
    potential = small()
    equations = NormalEquations(potential)
    for batch in batches(potential):
        labels, nan = batch.labels, torch.full_like
        only = type(labels)(labels.energy, nan(labels.forces, torch.nan), nan(labels.stress, torch.nan))
        equations.add(Batch(batch.graph, only, batch.frames))
    solution = solve(equations, None, LOSS, ClosedForm("evidence"))
    assert all(np.isfinite(row[:2]).all() for row in solution.scan)
    assert solution.coefficients.abs().max() > 0
    assert solution.parameters <= 12


def test_an_element_without_data_gets_no_coefficients():
    wide = Shifted(models.backbone("ace")(["Li", "P", "S", "O"], nmax=[6, 2], lmax=[0, 2], functions=None, cutoff=5.0))
    solution = solve(gather(wide, batches(wide)), None, LOSS, ClosedForm(0.0))
    per_element = solution.coefficients.view(4, -1)
    assert float(per_element[3].abs().max()) == 0
    assert float((solution.coefficients * solution.scale).abs().max()) < 1e8


def test_terms_without_weight_count_nothing():
    loss = Loss("mse", energy=0.0, forces=0.0, stress=1.0)
    potential = small()
    equations = gather(potential, batches(potential))
    assert equations.known(loss) == equations.counts["stress"]
    other = NormalEquations(potential)
    with pytest.raises(InputError, match="loss weights"):
        solve(other, None, loss, ClosedForm("evidence"))


@THEIR_WARNINGS
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trainer.max_steps", "2", "--data.batch_edges", "500"], "allow it one epoch"),
        (["--model.potential.init_args.dtype", "float32"], "dtype: float64"),
    ],
)
def test_what_would_not_be_solved_is_told(options, words, tmp_path: Path, capsys):
    assert command(*SMALL, *options, "--trainer.default_root_dir", tmp_path) == 1
    assert words in capsys.readouterr().err


@THEIR_WARNINGS
def test_a_solved_fit_goes_on_by_gradient(tmp_path: Path):
    nonlinear = ["--model.potential.init_args.exponents", "[1,0.5]", "--model.groups", "{}"]
    assert not command(*SMALL, *nonlinear, "--trainer.default_root_dir", tmp_path)
    solved = models.load(tmp_path / "last.ckpt").state_dict()["potential.coefficients"]
    more = ["--trainer.max_epochs", "2", "--ckpt_path", "last"]
    assert not command(*SMALL, *nonlinear, *more, "--trainer.default_root_dir", tmp_path)
    refined = models.load(tmp_path / "last.ckpt").state_dict()["potential.coefficients"]
    assert 0 < float((refined - solved).abs().max()) < 0.1 * float(solved.abs().max())
