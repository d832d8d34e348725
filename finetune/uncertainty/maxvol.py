"""MaxVol: the rows of a matrix that span the largest volume, found while the matrix streams by.

Goreinov et al., 10.1142/9789812836021_0015; for potentials: Podryabinkin and Shapeev,
10.1016/j.commatsci.2017.08.031; for the atomic cluster expansion: Lysogorskiy et al.,
10.1103/PhysRevMaterials.7.043801.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

ROWS_EACH = 3
TINY = 1e-3  # of the spread along a direction: what a made-up row reaches, which every real one outdoes


class Spread:
    """How far the rows of a matrix spread along each direction, from an R factor that follows them.

    Args:
        columns: of the matrix.
    """

    def __init__(self, columns: int) -> None:
        self.rows = 0
        self.factor = np.zeros((0, columns))

    def add(self, rows: Float[np.ndarray, "rows d"]) -> None:
        """Take more rows into account."""
        self.rows += len(rows)
        self.factor = np.asarray(np.linalg.qr(np.concatenate([self.factor, rows]), mode="r"))

    def whitening(self, resolution: float) -> tuple[Float[np.ndarray, "d d"], int]:
        """The matrix by which the rows become of unit mean square in all directions, and how many these are.

        Directions along which the rows spread by less than `resolution` of the largest spread, in columns brought to
        one scale, count as not spanned; they come last, in units of the smallest spread of the others. Where there are
        fewer rows than columns, the directions of largest spread count as spanned, one for every `ROWS_EACH` rows: with
        nearly as many directions as rows, each row would lie far outside of all others.
        """
        columns = self.factor.shape[1]
        scale = np.linalg.norm(self.factor, axis=0) / np.sqrt(self.rows)
        scale = np.where(scale > 0, scale, 1.0)
        square = np.zeros((columns, columns))
        square[: len(self.factor)] = self.factor / scale
        _, spreads, directions = np.linalg.svd(square)
        spanned = int((spreads > resolution * spreads[0]).sum()) if spreads[0] > 0 else 0
        if self.rows < columns:
            spanned = min(spanned, max(self.rows // ROWS_EACH, 1))
        spreads = np.maximum(spreads, spreads[max(spanned - 1, 0)]) / np.sqrt(self.rows)
        unit = np.where(spreads > 0, spreads, 1.0)
        return directions.T / unit / scale[:, None], spanned


class MaxVol:
    """A square matrix of rows chosen from those that are offered, such that no exchange enlarges its determinant much.

    It starts from made-up rows: one for each direction, as long as one unit along those that are not spanned and next
    to nothing along the others, where real rows take their place.

    Args:
        whitening: columns that bring the rows to unit mean square, see `Spread`.
        spanned: how many of its columns real rows span; the last ones they do not.
        tolerance: an exchange has to enlarge the determinant by more than this factor, at least 1.
    """

    def __init__(self, whitening: Float[np.ndarray, "d d"], spanned: int, tolerance: float = 1.001) -> None:
        self.whitening, self.tolerance = whitening, tolerance
        start = np.where(np.arange(len(whitening)) < spanned, TINY, 1.0)
        self.matrix, self.members = np.diag(start), np.full(len(start), -1)
        self._inverse = np.diag(1 / start)

    def offer(self, rows: Float[np.ndarray, "rows d"], names: Int[np.ndarray, " rows"]) -> int:
        """Exchange members for rows while that enlarges the determinant; returns how many were exchanged.

        The determinant grows by the factor |row A^-1|_j when a row takes the place of member j.
        """
        white = rows @ self.whitening
        exchanged = 0
        while len(white):
            self._inverse = np.linalg.inv(self.matrix)
            before, exchanged = exchanged, exchanged + self._exchange(white, names)
            if exchanged == before:  # with an inverse that carries no round-off of exchanges
                break
        return exchanged

    def _exchange(self, white: np.ndarray, names: np.ndarray) -> int:
        """Exchange until nothing is gained, with updates of rank 1 of the coefficients of all rows."""
        coefficients = white @ self._inverse
        for count in range(10 * len(self.matrix)):
            i, j = divmod(int(np.abs(coefficients).argmax()), coefficients.shape[1])
            if abs(coefficients[i, j]) <= self.tolerance:
                return count
            change = coefficients[i] - np.eye(1, coefficients.shape[1], j)[0]
            coefficients -= np.outer(coefficients[:, j] / coefficients[i, j], change)
            self.matrix[j], self.members[j] = white[i], names[i]
        return count + 1

    @property
    def inverse(self) -> Float[np.ndarray, "d d"]:
        """A^-1 for rows as they are offered."""
        return self.whitening @ np.linalg.inv(self.matrix)
