"""HyperLinear: a linear map for each task, made of what the task is, in a way that keeps magnitudes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from fastgmtl.nn.linear import task_product
from fastgmtl.ops.grouped_matmul import grouped_matmul


def constant_norm_encoding(g: Tensor) -> Tensor:
    r"""``[cos(pi g / 2), sin(pi g / 2)]``, [*, P] to [*, 2 P]: of the norm sqrt(P) whatever g is; g is in [0, 1].

    Source: Ortiz, Guttag and Dalca, Magnitude invariant parametrizations improve hypernetwork learning, ICLR 2024.
    """
    angle = g * (math.pi / 2)
    return torch.cat((angle.cos(), angle.sin()), -1)


class HyperLinear(nn.Module):
    r"""Linear maps whose weights are functions of a description g of the task.

    .. math:: y = W(g) x + b(g), \quad (W, b)(g) = \theta_0 + h([\cos(\pi g / 2), \sin(\pi g / 2)])

    h is a network with LeakyReLU: a plain hypernetwork's weights grow and shrink in proportion to g; here the input of
    h has the same norm for every g, and h changes weights that are there by themselves. Source: Ortiz, Guttag and
    Dalca, Magnitude invariant parametrizations improve hypernetwork learning, ICLR 2024, section 4, whose
    initialisation this is.

    Args:
        in_channels: F.
        out_channels: C.
        task_channels: P, of the description: preferences, hyperparameters, features of the task, scaled to [0, 1].
        hidden_channels: widths of h between its maps.
        bias: whether there is a b.

    Parameters: ``weight`` [C, F] and ``bias`` [C], which are theta_0; ``hyper``, the network h.

    Shapes: g [T, P]. x [N, F] (shared by the tasks) or [N, T, F] gives [N, T, C]. With ``group_ptr`` x is [M, F], its
    rows sorted by task, and so is the output [M, C]: each row is multiplied by the matrix of its own task.

    Raises:
        ValueError: a shape does not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        task_channels: int,
        hidden_channels: Sequence[int] = (64,),
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.task_channels = in_channels, out_channels, task_channels
        self.weight = Parameter(torch.empty(out_channels, in_channels))
        self.bias = Parameter(torch.empty(out_channels)) if bias else None
        widths = [2 * task_channels, *hidden_channels]
        parts: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            parts += [nn.Linear(before, after), nn.LeakyReLU()]
        # theta_0 is the bias of the last map.
        size = out_channels * (in_channels + bias)
        self.hyper = nn.Sequential(*parts, nn.Linear(widths[-1], size, bias=False))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        nn.init.kaiming_normal_(self.weight, 0.01, nonlinearity="leaky_relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        maps = [part for part in self.hyper if isinstance(part, nn.Linear)]
        for part in maps:
            nn.init.kaiming_normal_(part.weight, 0.01, "fan_out", "linear" if part is maps[-1] else "leaky_relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)

    def weights(self, g: Tensor) -> tuple[Tensor, Tensor | None]:
        """W [T, C, F] and b [T, C] of the tasks that g [T, P] describes."""
        if g.dim() != 2 or g.size(1) != self.task_channels:
            raise ValueError(
                f"HyperLinear: g must have shape [T, P] with P = {self.task_channels}, got {list(g.shape)}"
            )
        delta = self.hyper(constant_norm_encoding(g))
        split = self.weight.numel()
        weight = self.weight + delta[:, :split].unflatten(1, self.weight.shape)
        return weight, None if self.bias is None else self.bias + delta[:, split:]

    def forward(self, x: Tensor, g: Tensor, group_ptr: Sequence[int] | Tensor | None = None) -> Tensor:
        """y of the formula above."""
        if x.size(-1) != self.in_channels:
            raise ValueError(f"HyperLinear: x must have F = {self.in_channels} features, got {list(x.shape)}")
        weight, bias = self.weights(g)
        if group_ptr is not None:
            return self._grouped(x, weight, bias, group_ptr)
        if x.dim() == 2:
            out = (x @ weight.flatten(0, 1).t()).unflatten(1, (len(g), self.out_channels))
            return out if bias is None else out + bias
        if x.dim() != 3 or x.size(1) != len(g):
            raise ValueError(
                f"HyperLinear: x must have shape [N, F] or [N, T, F] with T = {len(g)}, got {list(x.shape)}; give "
                "group_ptr for rows sorted by task"
            )
        return task_product(x, weight, bias)

    def _grouped(self, x: Tensor, weight: Tensor, bias: Tensor | None, group_ptr: Sequence[int] | Tensor) -> Tensor:
        if bias is not None:  # a column of ones, so that no row's bias is written by itself
            x = torch.cat((x, x.new_ones(len(x), 1)), 1)
            weight = torch.cat((weight, bias.unsqueeze(2)), 2)
        return grouped_matmul(x, weight.mT, group_ptr)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, task_channels={self.task_channels}"
