from __future__ import annotations

from pathlib import Path

import matplotlib.image
import matplotlib.pyplot
import numpy as np
import pytest
import torch
from ase import Atoms

from finetune import plots
from finetune.data.frames import Frame
from finetune.errors import InputError
from finetune.evaluation import Evaluation
from finetune.metrics import errors, mae
from finetune.properties import Properties
from finetune.references import Alignment

FORMULAS = ["Li2S", "Li3P", "Li7P3S11", "P4S10", "Li16", "Li3PS4"]
FAMILIES = ["crystal", "crystal", "amorphous", "crystal", "interface", "amorphous"]


def evaluation(shift: bool = False, unknown_stress: bool = False) -> Evaluation:
    rng = np.random.default_rng(0)
    sizes = [len(Atoms(formula)) for formula in FORMULAS]
    frames = [Frame(Atoms(f), {}, "a.extxyz", k, FAMILIES[k], "g") for k, f in enumerate(FORMULAS)]

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    labels = Properties(-4.0 * torch.tensor(sizes).double() + draw(6), draw(sum(sizes), 3), 0.01 * draw(6, 3, 3))
    if unknown_stress:
        labels.stress[:] = torch.nan
    labels.forces[:3] = torch.nan
    predicted = Properties(labels.energy + 30.0, draw(sum(sizes), 3), 0.01 * draw(6, 3, 3))
    numbers = torch.cat([torch.from_numpy(frame.atoms.numbers) for frame in frames])
    alignment = Alignment(np.full(6, -30.0), "other frames") if shift else None
    result = errors(predicted, labels, torch.tensor(sizes), FAMILIES, numbers, shift=alignment)
    return Evaluation(frames, predicted, labels, result, alignment)


def size(path: Path) -> tuple[int, int]:
    height, width = matplotlib.image.imread(path).shape[:2]
    return width, height


@pytest.mark.parametrize("unknown_stress", [False, True])
def test_parity_has_three_panels_at_150_dpi(tmp_path: Path, unknown_stress: bool) -> None:
    path = tmp_path / "run" / "parity.png"
    plots.parity(evaluation(unknown_stress=unknown_stress), path)
    assert size(path) == (1800, 720)
    assert [p.name for p in path.parent.iterdir()] == ["parity.png"]
    picture = matplotlib.image.imread(path)[..., :3]
    for k in range(3):
        colour = np.array([int(plots.COLOURS[k][i : i + 2], 16) for i in (1, 3, 5)]) / 255
        assert (abs(picture - colour).max(axis=2) < 0.02).sum() > 20


@pytest.mark.parametrize("shift", [False, True])
def test_points_of_the_parity_plot_have_the_errors_of_the_table(shift: bool) -> None:
    evaluated = evaluation(shift)
    for (_, unit, label, predicted, family), name in zip(
        plots._parity_pairs(evaluated), ("energy", "forces", "stress"), strict=True
    ):
        assert len(label) == len(predicted) == len(family)
        assert 1e3 * mae(predicted, label) == pytest.approx(evaluated.errors.all[f"{name}_mae"]), unit
        one = family == "amorphous"
        expected = evaluated.errors.family["amorphous"][f"{name}_mae"]
        assert 1e3 * mae(predicted[one], label[one]) == pytest.approx(expected)


def test_curves_read_tables_with_empty_cells(tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    table.write_text(
        "epoch,step,train/loss,valid/loss,valid/forces_mae,lr\n"
        "0,3,,1.5,0.30,\n"
        "0,4,2.0,,,0.001\n"
        "1,7,,1.2,nan,\n"
        "1,8,1.0,,,\n"
        ",9,5.0,,,\n"
    )
    columns = plots._read(table)
    assert columns["train/loss"] == [(0.0, 2.0), (1.0, 1.0)]
    assert columns["valid/loss"] == [(0.0, 1.5), (1.0, 1.2)]
    assert columns["valid/forces_mae"] == [(0.0, 0.3)]
    plots.curves(table, tmp_path / "curves.png")
    assert size(tmp_path / "curves.png") == (1020, 510)  # two panels


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n"])
def test_a_table_without_metrics_is_refused(tmp_path: Path, content: str | None) -> None:
    table = tmp_path / "metrics.csv"
    if content is not None:
        table.write_text(content)
    with pytest.raises(InputError, match=r"give the metrics\.csv of a fit"):
        plots.curves(table, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_learning_curve_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "learning.png"
    plots.learning_curve({"a": [(40, 100.0), (10, 200.0)], "b": [(10, 150.0)]}, path, levels={"untouched": 233.0})
    assert size(path) == (840, 630)
    with pytest.raises(InputError, match="at least one model"):
        plots.learning_curve({"a": []}, path)


def test_a_figure_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        plots.learning_curve({"a": [(1, 1.0)]}, tmp_path / "file" / "x.png")
    old = tmp_path / "x.png"
    old.mkdir()
    with pytest.raises(InputError, match="cannot write"):
        plots.learning_curve({"a": [(1, 1.0)]}, old)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "x.png"]


def test_many_points_are_thinned_always_alike() -> None:
    few = plots._few(np.arange(2 * plots.MANY))
    assert len(set(few)) == plots.MANY
    assert (few == plots._few(np.arange(2 * plots.MANY))).all()
    assert (plots._few(np.arange(10)) == np.arange(10)).all()


def test_pyplot_keeps_no_figures(tmp_path: Path) -> None:
    before = matplotlib.pyplot.get_fignums()
    plots.parity(evaluation(), tmp_path / "parity.png")
    assert matplotlib.pyplot.get_fignums() == before
