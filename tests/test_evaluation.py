from __future__ import annotations

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from rich.console import Console
from rich.table import Table

from finetune.backbones.chgnet import CHGNet
from finetune.data.frames import Frame
from finetune.errors import InputError
from finetune.evaluation import compare_table, errors_table, evaluate
from finetune.metrics import Errors


def frames(structures: list[Atoms]) -> list[Frame]:
    found = []
    for k, atoms in enumerate(structures):
        given = {name: (atoms.info | atoms.arrays)[f"REF_{name}"] for name in ("energy", "forces", "stress")}
        found.append(Frame(atoms, given, "train.extxyz", k, atoms.info["family"], atoms.info["group"]))
    return found


def text(table: Table, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("budget", [1, 3000, 10**9])
def test_predictions_are_those_of_each_frame_alone_whatever_the_batches(
    interface_frames: list[Atoms], budget: int
) -> None:
    potential = CHGNet.tiny()
    known = frames(interface_frames)
    evaluation = evaluate(potential, known, batch_edges=budget, progress=False)
    potential.eval()
    alone = [potential(potential.graph(atoms)) for atoms in interface_frames]
    for name in ("energy", "forces", "stress"):
        expected = torch.cat([getattr(one, name) for one in alone]).double()
        torch.testing.assert_close(getattr(evaluation.predicted, name), expected, rtol=1e-7, atol=1e-9)
    assert evaluation.n_atoms.tolist() == [len(atoms) for atoms in interface_frames]
    assert evaluation.numbers.tolist() == [z for atoms in interface_frames for z in atoms.numbers]


def test_frames_beyond_a_chunk_are_evaluated_too(
    interface_frames: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    potential, known = CHGNet.tiny(), frames(interface_frames)
    whole = evaluate(potential, known, progress=False)
    monkeypatch.setattr("finetune.evaluation.CHUNK", 2)
    parts = evaluate(potential, known, progress=False)
    torch.testing.assert_close(parts.predicted.forces, whole.predicted.forces)
    given = evaluate(potential, known, progress=False, graphs=[potential.graph(atoms) for atoms in interface_frames])
    torch.testing.assert_close(given.predicted.energy, whole.predicted.energy)


def test_errors_are_those_of_predictions_against_labels(interface_frames: list[Atoms]) -> None:
    evaluation = evaluate(CHGNet.tiny(), frames(interface_frames), progress=False)
    label = np.concatenate([atoms.arrays["REF_forces"] for atoms in interface_frames])
    expected = 1e3 * np.abs(evaluation.predicted.forces.numpy() - label).mean()
    assert evaluation.errors.all["forces_mae"] == pytest.approx(expected)
    assert set(evaluation.errors.family) == {atoms.info["family"] for atoms in interface_frames}
    assert json.loads(json.dumps(evaluation.json()))["frames"] == len(interface_frames)


def test_a_potential_in_training_mode_stays_in_it(interface_frames: list[Atoms]) -> None:
    potential = CHGNet.tiny().train()
    evaluation = evaluate(potential, frames(interface_frames[:1]), progress=False)
    assert potential.training
    assert not evaluation.predicted.forces.requires_grad


def test_no_frames_are_refused() -> None:
    with pytest.raises(InputError, match="no frames"):
        evaluate(CHGNet.tiny(), [])


def made_up(scale: float, shifted: bool = False) -> Errors:
    row = {
        "energy_mae": 70.14 * scale,
        "energy_rmse": 81.8 * scale,
        "forces_mae": 298.8 * scale,
        "forces_rmse": 466.1 * scale,
        "forces_slope": 0.773,
        "forces_cosine": 0.866,
        "stress_mae": 3.74 * scale,
        "stress_rmse": math.nan,
    }
    atoms = {name: value for name, value in row.items() if name.startswith("forces")}
    alignment = "Energies are compared after an energy shift per element fitted to others." if shifted else ""
    return Errors(row, {"interface": {"frames": 9, **row}}, {"Li": {"atoms": 120, **atoms}}, 9, alignment)


def test_table_has_units_rows_for_families_and_elements_and_fits_100_columns() -> None:
    shown = text(errors_table(made_up(1.0)))
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100
    for unit in ("meV/atom", "meV/Å", "meV/Å³"):
        assert unit in shown
    words = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert words["all"] == ["9", "70.1", "81.8", "298.8", "466.1", "0.77", "0.87", "3.7"]
    assert words["interface"][0] == "9"
    assert words["Li"] == ["120", "298.8", "466.1", "0.77", "0.87"]
    assert "shift" not in shown


def test_table_says_when_energies_were_shifted_per_element() -> None:
    shown = " ".join(text(errors_table(made_up(1.0, shifted=True))).split())
    assert made_up(1.0, shifted=True).alignment in shown


def test_table_of_a_narrow_terminal_keeps_its_names_and_leaves_out_the_rmse(interface_frames: list[Atoms]) -> None:
    evaluation = evaluate(CHGNet.tiny(), grouped(interface_frames), progress=False)
    for width in (80, 100):
        shown = text(evaluation.table(width), width)
        assert max(map(len, shown.splitlines())) <= width
        assert {"all", "Li"} <= {line.split()[0] for line in shown.splitlines() if line.strip()}
        assert ("RMSE" in shown) == (width == 100)


def test_table_of_a_potential_that_is_off_by_orders_of_magnitude_keeps_its_width_and_names() -> None:
    result = made_up(1e6)
    result.all["forces_mae_low"], result.all["forces_mae_high"] = 83.0, 1389382.0
    shown = text(errors_table(result))
    assert max(map(len, shown.splitlines())) <= 100
    assert "all" in shown
    assert "83–1e6" in shown


def test_tables_show_intervals_below_their_errors(interface_frames: list[Atoms]) -> None:
    evaluation = evaluate(CHGNet.tiny(), grouped(interface_frames), progress=False)
    row = evaluation.errors.all
    ends = f"{row['forces_mae_low']:.0f}–{row['forces_mae_high']:.0f}"
    assert ends in text(evaluation.table())
    both = text(compare_table(evaluation, evaluation))
    assert max(map(len, both.splitlines())) <= 100
    assert f"{ends} 1.00–1.00" in both


def grouped(structures: list[Atoms]) -> list[Frame]:
    """The same frames, each a group of its own."""
    return [replace(frame, group=str(k)) for k, frame in enumerate(frames(structures))]


def test_comparison_gives_before_after_and_their_ratio() -> None:
    shown = text(compare_table(made_up(1.0, shifted=True), made_up(0.5)))
    lines = [line.split() for line in shown.splitlines()]
    assert max(map(len, shown.splitlines())) <= 100
    everything = next(line for line in lines if line[:1] == ["all"])
    assert " ".join(everything[1:]) == ("70.1 → 35.1 0.50 298.8 → 149.4 0.50 3.7 → 1.9 0.50 0.77 → 0.77")
    assert [line[0] for line in lines if "→" in line and line[0] != "before"] == ["all", "interface", "Li"]
    assert "(before)" in shown


def test_comparison_with_a_family_that_is_gone_shows_a_dash() -> None:
    before, after = made_up(1.0), made_up(0.5)
    after.family.clear()
    line = next(line for line in text(compare_table(before, after)).splitlines() if "interface" in line)
    assert line.split()[1:5] == ["70.1", "→", "–", "298.8"]
