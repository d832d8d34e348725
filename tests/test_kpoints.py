"""Grids of k-points: density, and the cosine bands that they integrate exactly."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from finetune.errors import InputError
from finetune.labelling import Calculated, Grid


def wave(points: np.ndarray, translation: tuple[int, int, int]) -> float:
    """Mean of cos(2 pi k R) over a grid; the integral over the zone is 0 for every R but 0."""
    return float(np.cos(2 * np.pi * points @ translation).mean())


def cubic(a: float) -> Atoms:
    return Atoms("Li", cell=[a, a, a], pbc=True)


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5])
def test_waves_shorter_than_the_grid_are_integrated_exactly(shift):
    points = Grid(9.0, shift).points(cubic(3.0))
    assert len(points) == 27
    for translation in [(1, 0, 0), (2, 0, 0), (1, 2, 0), (1, 1, 2)]:
        assert wave(points, translation) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("shift", "error"), [(0.0, 1.0), (0.25, 0.0), (0.5, -1.0)])
def test_a_quarter_shift_removes_the_leading_error(shift, error):
    assert wave(Grid(9.0, shift).points(cubic(3.0)), (3, 0, 0)) == pytest.approx(error, abs=1e-12)


def test_one_point_at_a_quarter_is_the_mean_value_point_of_a_cubic_crystal():
    np.testing.assert_allclose(Grid(3.0).points(cubic(3.0)), [[0.25, 0.25, 0.25]])


def test_the_size_follows_the_distances_between_lattice_planes():
    oblique = Atoms("Li", cell=[[4, 0, 0], [3, 4, 0], [0, 0, 20]], pbc=True)  # planes 3.2, 4 and 20 Å apart
    assert Grid(16.0).size(oblique) == (5, 4, 1)
    assert Grid(16.0).size(bulk("Li", a=3.44).repeat(2)) == Grid(8.0).size(bulk("Li", a=3.44))


def test_directions_without_periods_have_one_point_at_gamma():
    slab = Atoms("Li", cell=[4, 4, 4], pbc=[True, True, False])
    points = Grid(8.0).points(slab)
    assert len(points) == 4
    assert not points[:, 2].any()


def test_a_grid_that_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="length_A"):
        Grid(0.0)
    with pytest.raises(InputError, match="shift"):
        Grid(9.0, 0.3)
    with pytest.raises(InputError, match=r"no grid.*length_A"):
        Calculated("ase.calculators.lj.LennardJones", {"kpts": "{kpoints}"}).check()
