"""Neural sheaf diffusion: layers whose edges carry linear maps between the spaces of their nodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgmtl import ops
from fastgmtl.graph import Graph, as_graph
from fastgmtl.ops.check import one_of

MAPS = ("diagonal", "orthogonal", "general")


class SheafConv(nn.Module):
    r"""One step of diffusion on a sheaf that is learned from the features.

    .. math::
        X' = (1 + \tanh \epsilon) X - \mathrm{elu}(\Delta (I \otimes W_1) X W_2), \quad
        (L X)_v = \sum_{e = \{u, v\}} F_{ve}^T (F_{ve} X_v - F_{ue} X_u), \quad
        F_{ve} = \tanh(\Theta [x_v; x_u])

    with :math:`\Delta = (D + I)^{-1/2} L (D + I)^{-1/2}`, D the diagonal blocks of L. Nothing is assembled: the blocks
    :math:`F_{ve}^T F_{ue}` [E, s, s] (or [E, s]) are applied by :func:`fastgmtl.ops.block_spmm` (or
    :func:`fastgmtl.ops.spmm`). Source: Bodnar et al., Neural sheaf diffusion, NeurIPS 2022, section 4.

    Args:
        channels: c.
        stalk_dim: s, of the space of each node.
        maps: of F: "diagonal"; "orthogonal" (the Cayley transform of a skew-symmetric matrix; no tanh); "general".

    Shapes: x [N, s, c]; edge_index [2, E], a :class:`fastgmtl.Graph` or a sparse matrix, with edges in both directions;
    output [N, s, c].
    """

    def __init__(self, channels: int, stalk_dim: int, maps: str = "diagonal") -> None:
        super().__init__()
        one_of("SheafConv", "maps", maps, MAPS)
        self.channels, self.stalk_dim, self.maps = channels, stalk_dim, maps
        numbers = {"diagonal": stalk_dim, "orthogonal": stalk_dim * (stalk_dim - 1) // 2, "general": stalk_dim**2}
        self.of_own = nn.Linear(channels * stalk_dim, numbers[maps], bias=False)
        self.of_other = nn.Linear(channels * stalk_dim, numbers[maps], bias=False)
        self.left = nn.Linear(stalk_dim, stalk_dim, bias=False)
        self.right = nn.Linear(channels, channels, bias=False)
        self.epsilon = nn.Parameter(torch.empty(stalk_dim, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew: Theta uniform, W_1 the identity, W_2 orthogonal, epsilon 0."""
        bound = (2 * self.channels * self.stalk_dim) ** -0.5
        for part in (self.of_own, self.of_other):
            nn.init.uniform_(part.weight, -bound, bound)
        nn.init.eye_(self.left.weight)
        nn.init.orthogonal_(self.right.weight)
        nn.init.zeros_(self.epsilon)

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        """X' of the formula above."""
        if x.dim() != 3 or x.size(1) != self.stalk_dim or x.size(2) != self.channels:
            wanted = f"[N, {self.stalk_dim}, {self.channels}]"
            raise ValueError(f"SheafConv: x must have shape {wanted}, got {list(x.shape)}")
        graph = as_graph(edge_index, x.size(0), x.size(0))
        mixed = torch.matmul(self.left.weight, self.right(x))
        return (1 + self.epsilon.tanh()) * x - F.elu(self.laplacian(graph, x, mixed))

    def laplacian(self, graph: Graph, x: Tensor, y: Tensor) -> Tensor:
        """Delta y [N, s, c] of the sheaf of features x [N, s, c]."""
        near, far = self.restriction(graph, x)
        if self.maps == "diagonal":
            degree = _edge_sum(graph, near * near).unsqueeze(2)
            scale = (degree + 1).rsqrt()
            scaled = scale * y
            return scale * (degree * scaled - ops.spmm(graph, scaled, near * far))
        blocks = near.transpose(1, 2) @ far
        if self.maps == "orthogonal":
            count = graph.in_degree().to(y.dtype).reshape(-1, 1, 1)
            scale = (count + 1).rsqrt()
            scaled = scale * y
            return scale * (count * scaled - ops.block_spmm(graph, blocks, scaled))
        degree = _edge_sum(graph, (near.transpose(1, 2) @ near).flatten(1)).unflatten(1, blocks.shape[1:])
        root = inverse_sqrt(degree + torch.eye(self.stalk_dim, dtype=y.dtype, device=y.device))
        scaled = root @ y
        return root @ (degree @ scaled - ops.block_spmm(graph, blocks, scaled))

    def restriction(self, graph: Graph, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of each edge from u to v the maps F of v and of u: [E, s] if they are diagonal, else [E, s, s]."""
        src, dst = graph.edge_index()
        own, other = self.of_own(x.flatten(1)), self.of_other(x.flatten(1))
        return self._map(own[dst] + other[src]), self._map(own[src] + other[dst])

    def _map(self, numbers: Tensor) -> Tensor:
        if self.maps == "diagonal":
            return numbers.tanh()
        if self.maps == "general":
            return numbers.tanh().unflatten(1, (self.stalk_dim, self.stalk_dim))
        return cayley(numbers, self.stalk_dim)

    def extra_repr(self) -> str:
        return f"{self.channels}, stalk_dim={self.stalk_dim}, maps={self.maps}"


def _edge_sum(graph: Graph, values: Tensor) -> Tensor:
    """Of values [E, k] of edges the sums by destination, [N, k]."""
    ones = values.new_ones(graph.num_src, 1)
    return ops.spmm(graph, ones, values).squeeze(2)


def cayley(numbers: Tensor, size: int) -> Tensor:
    """Orthogonal matrices [E, s, s]: (I - A)^{-1} (I + A) of skew-symmetric A with s (s - 1) / 2 ``numbers`` each."""
    row, col = torch.tril_indices(size, size, -1, device=numbers.device)
    place = torch.arange(len(numbers), device=numbers.device).unsqueeze(1)
    skew = numbers.new_zeros(len(numbers), size, size).index_put((place, row, col), numbers)
    skew = skew - skew.transpose(1, 2)
    eye = torch.eye(size, dtype=numbers.dtype, device=numbers.device)
    return torch.linalg.solve(eye - skew, eye + skew)


def inverse_sqrt(matrices: Tensor, steps: int = 24) -> Tensor:
    """A^{-1/2} of symmetric matrices [N, s, s] whose eigenvalues are 1 or more.

    The coupled Newton-Schulz iteration: products alone, so that its derivatives are finite where eigenvalues are equal,
    unlike those of a decomposition. Source: Higham, Functions of matrices, SIAM 2008, section 6.7.
    """
    eye = torch.eye(matrices.size(-1), dtype=matrices.dtype, device=matrices.device)
    norm = matrices.flatten(1).norm(dim=1).reshape(-1, 1, 1)
    y, z = matrices / norm, eye.expand_as(matrices)
    for _ in range(steps):
        t = (3 * eye - z @ y) / 2
        y, z = y @ t, t @ z
    return z / norm.sqrt()


class NeuralSheafDiffusion(nn.Module):
    r"""A linear map into s spaces of c columns, layers of :class:`SheafConv`, and a linear map of what they give.

    Args:
        in_channels, hidden_channels, out_channels: columns of the input, c, and columns of the output.
        num_layers: how many steps, each with a sheaf of its own.
        stalk_dim: s.
        maps: see :class:`SheafConv`.
        dropout: of the input, and before each step.

    Shapes: x [N, F]; edge_index as of :class:`SheafConv`; output [N, out_channels].

    Source: Bodnar et al. 2022, section 5.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        stalk_dim: int = 3,
        maps: str = "diagonal",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.stalk_dim, self.dropout = stalk_dim, dropout
        self.first = nn.Linear(in_channels, stalk_dim * hidden_channels)
        self.convs = nn.ModuleList(SheafConv(hidden_channels, stalk_dim, maps) for _ in range(num_layers))
        self.last = nn.Linear(stalk_dim * hidden_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        for part in (self.first, *self.convs, self.last):
            part.reset_parameters()  # type: ignore[operator]

    def forward(self, x: Tensor, edge_index: Any) -> Tensor:
        """The output of the last linear map."""
        graph = as_graph(edge_index, x.size(0), x.size(0))
        h = F.elu(self.first(F.dropout(x, self.dropout, self.training))).unflatten(1, (self.stalk_dim, -1))
        for conv in self.convs:
            h = conv(F.dropout(h, self.dropout, self.training), graph)
        return self.last(h.flatten(1))
