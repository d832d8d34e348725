"""The invariant functions B of the atomic base A for many atoms at once; the numbers of one feature lie together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from finetune.backbones._ace_basis import Function, threej

Key = tuple[int, ...]


class Products(nn.Module):
    """Coupled products of the atomic base.

    Channel `mu * n_mixed + n` of degree l holds species mu and radial function n. Every function is a scalar product of
    two rows among the As of degree L and their pairs coupled to L; pairs are worked out once.

    Args:
        species: number of elements.
        n_mixed: radial functions R_nl of the orders above one.
        functions: the functions to evaluate.

    Attributes:
        functions: in the order of the rows of the result.
        lmax: largest degree of an A.
    """

    def __init__(self, species: int, n_mixed: int, functions: Sequence[Function]) -> None:
        super().__init__()
        self.species, self.n_mixed = species, n_mixed
        self.functions = sorted(functions, key=lambda f: (f.order > 1, f.L if f.order > 1 else 0, f.order, f.channels))
        self.lmax = max((l for f in functions for l, _, _ in f.channels), default=0)
        self.couplings: list[tuple[int, int, int]] = []
        self.degrees: list[int] = []
        singles = [f for f in self.functions if f.order == 1]
        self._index("single", [f.channels[0][1:] for f in singles])
        pairs = self._pairs()
        for (l1, l2, L), members in pairs.items():
            self.couplings.append((l1, l2, L))
            self._index(f"pairs_{l1}_{l2}_{L}", members)
            if l1 > 0:
                matrix = torch.from_numpy(threej(l1, l2, L)).reshape(-1, 2 * L + 1).T.contiguous()
                self.register_buffer(f"coupling_{l1}_{l2}_{L}", matrix, persistent=False)
        starts = self._starts(pairs)
        for L in sorted({f.L for f in self.functions if f.order > 1}):
            rows = [self._factors(f, pairs, starts) for f in self.functions if f.order > 1 and f.L == L]
            self.degrees.append(L)
            self._index(f"products_{L}", rows)

    def _index(self, name: str, rows: Sequence[Sequence[int]]) -> None:
        """Keep rows of indices as a buffer with one row for each factor."""
        self.register_buffer(
            name, torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).T.contiguous(), persistent=False
        )

    def _channel(self, channel: tuple[int, int, int]) -> int:
        _, mu, n = channel
        return mu * self.n_mixed + n

    def _pairs(self) -> dict[tuple[int, int, int], list[tuple[int, int]]]:
        """Channels of each pair that is needed, by degrees (l1, l2, L), each pair once."""
        found: dict[tuple[int, int, int], dict[tuple[int, int], None]] = defaultdict(dict)
        for f in self.functions:
            for first, second in [f.channels[0:2], f.channels[2:4]][: (0, 0, 0, 1, 2)[f.order]]:
                found[first[0], second[0], f.L][self._channel(first), self._channel(second)] = None
        return {key: list(members) for key, members in sorted(found.items())}

    def _starts(self, pairs: dict[tuple[int, int, int], list[tuple[int, int]]]) -> dict[tuple[int, int, int], int]:
        """First row of each block of pairs among the rows of its degree L; the As come first."""
        next_row = {L: self.species * self.n_mixed if self.lmax >= L else 0 for _, _, L in pairs}
        starts = {}
        for key, members in pairs.items():
            starts[key] = next_row[key[2]]
            next_row[key[2]] += len(members)
        return starts

    def _factors(
        self,
        f: Function,
        pairs: dict[tuple[int, int, int], list[tuple[int, int]]],
        starts: dict[tuple[int, int, int], int],
    ) -> tuple[int, int]:
        """Rows of the two vectors whose scalar product the function is."""

        def pair(first: tuple[int, int, int], second: tuple[int, int, int]) -> int:
            key = (first[0], second[0], f.L)
            return starts[key] + pairs[key].index((self._channel(first), self._channel(second)))

        c = f.channels
        if f.order == 2:
            return self._channel(c[0]), self._channel(c[1])
        return pair(c[0], c[1]), self._channel(c[2]) if f.order == 3 else pair(c[2], c[3])

    def forward(self, radial: Tensor, base: Sequence[Tensor]) -> Tensor:
        """B, shape (functions, atoms).

        Args:
            radial: sums of g_k over the neighbours, shape (species, k, atoms).
            base: for each l the A, shape (2 l + 1, species * n_mixed, atoms).
        """
        vectors = [[a] for a in base]
        vectors += [[] for _ in range(max((L for _, _, L in self.couplings), default=0) + 1 - len(vectors))]
        for l1, l2, L in self.couplings:
            vectors[L].append(self._couple(base[l1], base[l2], l1, l2, L))
        mu, k = self.get_buffer("single")
        found = [radial[mu, k]]
        for L in self.degrees:
            rows = vectors[L][0] if len(vectors[L]) == 1 else torch.cat(vectors[L], dim=1)
            left, right = self.get_buffer(f"products_{L}")
            found.append((rows.index_select(1, left) * rows.index_select(1, right)).sum(dim=0))
        return torch.cat(found)

    def _couple(self, first: Tensor, second: Tensor, l1: int, l2: int, L: int) -> Tensor:
        """Pairs of As coupled to degree L, shape (2 L + 1, pairs, atoms)."""
        left, right = self.get_buffer(f"pairs_{l1}_{l2}_{L}")
        return self._coupled(first.index_select(1, left), second.index_select(1, right), l1, l2, L)

    def _coupled(self, a: Tensor, b: Tensor, l1: int, l2: int, L: int) -> Tensor:
        """Rows of degrees l1 and l2 coupled to degree L."""
        if l1 == 0:
            return a * b
        products = (a[:, None] * b[None, :]).flatten(0, 1)
        matrix = self.get_buffer(f"coupling_{l1}_{l2}_{L}")
        return (matrix @ products.flatten(1)).view(-1, *products.shape[1:])

    def partials(self, base: Sequence[Tensor]) -> Tensor:
        """Derivatives dB/dA, shape (species, functions, n_mixed * (lmax + 1)², atoms); order 1 has none.

        Every function gets its own copies of its factors, so that one reverse pass gives all derivatives. A of
        degree l, radial function n and m comes in place `n * (lmax + 1)² + l² + m`: that of R_n Y_lm in their outer
        product.
        """
        atoms, width = base[0].shape[-1], (self.lmax + 1) ** 2
        result = base[0].new_zeros(self.species * len(self.functions) * self.n_mixed * width, atoms)
        for (ls, L), members in self._alike().items():
            copies = [base[l].detach()[:, members[:, 1 + k]].requires_grad_(True) for k, l in enumerate(ls)]
            with torch.enable_grad():
                total = self._product(copies, ls, L).sum()
            for k, (l, slopes) in enumerate(zip(ls, torch.autograd.grad(total, copies), strict=True)):
                mu, n = members[:, 1 + k] // self.n_mixed, members[:, 1 + k] % self.n_mixed
                first = ((mu * len(self.functions) + members[:, 0]) * self.n_mixed + n) * width + l * l
                places = first + torch.arange(2 * l + 1, device=first.device)[:, None]
                result.index_add_(0, places.flatten(), slopes.flatten(0, 1))
        return result.view(self.species, len(self.functions), -1, atoms)

    def _alike(self) -> dict[tuple[tuple[int, ...], int], Tensor]:
        """Row and channels of the functions above order one that have the same degrees, by these degrees and L."""
        found: dict[tuple[tuple[int, ...], int], list[list[int]]] = defaultdict(list)
        for row, f in enumerate(self.functions):
            if f.order > 1:
                key = tuple(l for l, _, _ in f.channels), f.L
                found[key].append([row, *(self._channel(channel) for channel in f.channels)])
        device = self.get_buffer("single").device
        return {key: torch.tensor(rows, device=device) for key, rows in found.items()}

    def _product(self, factors: Sequence[Tensor], ls: tuple[int, ...], L: int) -> Tensor:
        """The coupled product of factors, each of shape (2 l + 1, functions, atoms)."""
        if len(factors) == 2:
            return (factors[0] * factors[1]).sum(dim=0)
        left = self._coupled(factors[0], factors[1], ls[0], ls[1], L)
        right = factors[2] if len(factors) == 3 else self._coupled(factors[2], factors[3], ls[2], ls[3], L)
        return (left * right).sum(dim=0)
