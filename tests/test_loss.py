from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from finetune.errors import InputError
from finetune.graph import Graph, energy_and_derivatives
from finetune.loss import SCALE, Loss, Stage
from finetune.properties import Properties

Kind = Literal["mse", "mae", "huber"]
Penalty = Callable[[np.ndarray], np.ndarray]

N_ATOMS = torch.tensor([2, 3])


def properties(seed: int, dtype: torch.dtype = torch.float64) -> Properties:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Tensor:
        return torch.tensor(rng.normal(size=shape), dtype=dtype)

    return Properties(draw(2), draw(5, 3), draw(2, 3, 3), magmoms=draw(5))


def leaf(p: Properties) -> Properties:
    return Properties(**{name: value.clone().requires_grad_() for name, value in p.known().items()})


def gradient(x: Tensor) -> Tensor:
    assert x.grad is not None
    return x.grad


def huber(r: np.ndarray, delta: float) -> np.ndarray:
    return np.where(abs(r) < delta, r**2 / 2, delta * (abs(r) - delta / 2))


@pytest.mark.parametrize(
    ("kind", "penalty"),
    [("mse", np.square), ("mae", np.abs), ("huber", lambda r: huber(r, 0.7))],
)
def test_loss_is_the_weighted_sum_of_mean_penalties_of_scaled_residuals(kind: Kind, penalty: Penalty) -> None:
    predicted, labels = properties(1), properties(2)
    loss = Loss(kind, energy=2.0, forces=3.0, stress=0.5, magmoms=0.25, delta=0.7)
    total, terms = loss(predicted, labels, N_ATOMS)
    n = N_ATOMS.numpy()
    p, t = ({k: v.numpy() for k, v in x.known().items()} for x in (predicted, labels))
    expected = {
        "energy": penalty((p["energy"] / n - t["energy"] / n) / 0.03).mean(),
        "forces": penalty((p["forces"] - t["forces"]) / 0.2).mean(),
        "stress": penalty((p["stress"] - t["stress"]) / 0.004).mean(),
        "magmoms": penalty((abs(p["magmoms"]) - abs(t["magmoms"])) / 0.1).mean(),
    }
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-12)
    weights = {"energy": 2.0, "forces": 3.0, "stress": 0.5, "magmoms": 0.25}
    assert total.item() == pytest.approx(sum(weights[k] * expected[k] for k in expected), rel=1e-12)


def test_one_typical_error_of_energy_forces_and_stress_counts_alike() -> None:
    labels = Properties(torch.zeros(2), torch.zeros(5, 3), torch.zeros(2, 3, 3))
    one_off = Properties(
        SCALE["energy"] * N_ATOMS,
        torch.full((5, 3), SCALE["forces"]),
        torch.full((2, 3, 3), SCALE["stress"]),
    )
    _, terms = Loss("mae")(one_off, labels, N_ATOMS)
    assert [term.item() for term in terms.values()] == pytest.approx([1.0, 1.0, 1.0])


def test_energies_in_double_and_forces_in_single_precision_give_one_gradient_each() -> None:
    single = properties(1, torch.float32)
    predicted = leaf(Properties(properties(1).energy, single.forces, single.stress))
    total, _ = Loss()(predicted, properties(2), N_ATOMS)
    total.backward()
    assert total.item() == pytest.approx(Loss()(properties(1), properties(2), N_ATOMS)[0].item(), rel=1e-5)
    assert gradient(predicted.energy).dtype == torch.float64
    assert gradient(predicted.forces).dtype == torch.float32


@pytest.mark.parametrize("kind", ["mse", "mae", "huber"])
def test_unknown_components_do_not_count_and_give_exactly_zero_gradient(kind: Kind) -> None:
    labels = properties(2)
    labels.energy[0] = torch.nan
    labels.forces[1] = torch.nan
    labels.forces[3, 2] = torch.nan
    labels.stress[1, 0] = torch.nan
    predicted = leaf(properties(1))
    total, terms = Loss(kind, stress=1.0, magmoms=1.0)(predicted, labels, N_ATOMS)
    total.backward()
    known = ~torch.isnan(labels.forces)
    for name, label in labels.known().items():
        slope = gradient(getattr(predicted, name))
        assert torch.isfinite(slope).all()
        assert (slope[torch.isnan(label)] == 0).all()
        assert (slope[~torch.isnan(label)] != 0).all()
    r = ((predicted.forces - labels.forces)[known] / 0.2).detach().numpy()
    penalties = {"mse": r**2, "mae": abs(r), "huber": huber(r, 1.0)}
    assert terms["forces"].item() == pytest.approx(penalties[kind].mean(), rel=1e-12)


def test_unknown_components_may_have_nan_predictions() -> None:
    labels, predicted = properties(2), properties(1)
    labels.stress[0], predicted.stress[0] = torch.nan, torch.nan
    predicted = leaf(predicted)
    total, _ = Loss()(predicted, labels, N_ATOMS)
    total.backward()
    assert torch.isfinite(total)
    assert (gradient(predicted.stress)[0] == 0).all()


def test_a_batch_without_any_label_of_a_term_gives_it_zero() -> None:
    labels = properties(2)
    labels.stress[:] = torch.nan
    total, terms = Loss(stress=5.0)(properties(1), labels, N_ATOMS)
    assert terms["stress"].item() == 0.0
    assert total.item() == pytest.approx((terms["energy"] + terms["forces"]).item())


def test_a_batch_without_any_label_still_goes_backward() -> None:
    nothing = Properties(
        *(torch.full_like(x, torch.nan) for x in (torch.ones(2), torch.ones(5, 3), torch.ones(2, 3, 3)))
    )
    predicted = leaf(properties(1))
    total, _ = Loss()(predicted, nothing, N_ATOMS)
    total.backward()
    assert total.item() == 0.0
    assert (gradient(predicted.forces) == 0).all()


def test_magnetic_moments_stay_out_where_potential_or_labels_have_none() -> None:
    bare = Properties(torch.zeros(2), torch.zeros(5, 3), torch.zeros(2, 3, 3))
    for predicted, labels in [(bare, properties(2)), (properties(1), bare)]:
        total, terms = Loss(energy=0.0, forces=0.0, stress=0.0, magmoms=1.0)(predicted, labels, N_ATOMS)
        assert "magmoms" not in terms
        assert total.item() == 0.0


def test_loss_is_computed_in_the_dtype_of_the_predictions() -> None:
    total, terms = Loss()(properties(1, torch.float32), properties(2), N_ATOMS)
    double, _ = Loss()(properties(1), properties(2), N_ATOMS)
    assert total.dtype == torch.float32
    assert {term.dtype for term in terms.values()} == {torch.float32}
    assert total.item() == pytest.approx(double.item(), rel=1e-5)


def test_stages_set_weights_from_their_epoch_on_and_keep_the_others() -> None:
    loss = Loss(energy=1.0, forces=10.0, stress=0.0, stages=[Stage(3, energy=5.0), Stage(7, forces=1.0, stress=2.0)])
    weights = [(loss.at(e).energy, loss.at(e).forces, loss.at(e).stress) for e in (0, 2, 3, 6, 7, 100)]
    first, second, third = (1.0, 10.0, 0.0), (5.0, 10.0, 0.0), (5.0, 1.0, 2.0)
    assert weights == [first, first, second, second, third, third]
    assert loss.at(7).kind == loss.kind
    assert loss.at(7).stages is None


@pytest.mark.parametrize(
    "settings",
    [
        {"delta": 0.0},
        {"delta": float("nan")},
        {"energy": -1.0},
        {"energy": 0.0, "forces": 0.0, "stress": 0.0},
        {"stages": [Stage(2), Stage(2)]},
        {"stages": [Stage(3), Stage(2)]},
        {"stages": [Stage(-1)]},
        {"stages": [Stage(4, energy=0.0, forces=0.0, stress=0.0)]},
        {"stages": [Stage(4, forces=-2.0)]},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict) -> None:
    with pytest.raises(InputError, match=r"give|known"):
        Loss(**settings)


def test_a_misspelt_loss_offers_the_nearest_known_one(root: Path) -> None:
    # in a process of its own: under pytest the type hints are checked first
    code = "from finetune.loss import Loss; Loss('hubber')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert "InputError: unknown loss 'hubber'; did you mean 'huber'?" in done.stderr


def test_loss_is_built_from_a_config() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--loss", type=Loss, default=Loss())
    stages = '[{"epoch": 5, "energy": 4.0}]'
    built = parser.instantiate(parser.parse_args(["--loss.kind=mae", f"--loss.stages={stages}"])).loss
    assert built == Loss("mae", stages=[Stage(5, energy=4.0)])


def test_a_molecule_beside_a_crystal_leaves_the_weights_a_finite_gradient() -> None:
    spring = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def energies(graph: Graph) -> tuple[Tensor, None, None]:
        per_edge = spring * graph["vectors"].square().sum(dim=1) ** 2
        structure = graph["batch"][graph["edge_index"][0]]
        return per_edge.new_zeros(2).index_add(0, structure, per_edge), None, None

    graph = {
        "positions": torch.tensor([[0.0, 0, 0], [1.1, 0, 0], [0, 0, 0], [0, 0.9, 0.3]], dtype=torch.float64),
        "cell": torch.stack([torch.zeros(3, 3), 4 * torch.eye(3)]).double(),
        "batch": torch.tensor([0, 0, 1, 1]),
        "edge_index": torch.tensor([[0, 2, 1, 3], [1, 3, 0, 2]]),
        "shifts": torch.zeros(4, 3, dtype=torch.float64),
        "n_atoms": torch.tensor([2, 2]),
        "n_edges": torch.tensor([2, 2]),
    }
    predicted = energy_and_derivatives(graph, energies, training=True)
    stress = torch.full((2, 3, 3), torch.nan, dtype=torch.float64)
    stress[1] = 0.0
    labels = Properties(torch.zeros(2, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64), stress)
    total, _ = Loss("mse", stress=1.0)(predicted, labels, graph["n_atoms"])
    total.backward()
    # every term is a square of something proportional to the spring constant
    assert gradient(spring).item() == pytest.approx(2 * total.item() / spring.item(), rel=1e-10)
