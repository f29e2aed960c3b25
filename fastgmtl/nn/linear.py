"""Linear maps, one or one for each task, with the parameters and the initialisation of PyTorch Geometric's."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import Parameter, UninitializedParameter, is_lazy


class Linear(nn.Module):
    r"""One linear map, or T maps side by side.

    .. math:: y_{n,t} = W_t x_{n,t} + b_t

    Args:
        in_channels: F, or -1 to take it from the first input.
        out_channels: C.
        bias: whether there is a b.
        weight_initializer: "glorot" or None, which is the initialisation of ``torch.nn.Linear``. The same seed gives
            the same numbers as ``torch_geometric.nn.Linear``; the maps of T tasks are drawn one after the other.
        num_tasks: None for one map, or T.

    Parameters: ``weight`` [C, F] and ``bias`` [C]; with tasks [T, C, F] and [T, C].

    Shapes: x [*, F] gives [*, C]. With tasks x [N, F] (shared) or [N, T, F] gives [N, T, C]: the shared input is one
    product with a [F, T C] matrix, an input for each task one batched product.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        bias: bool = True,
        weight_initializer: Literal["glorot"] | None = None,
        num_tasks: int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.weight_initializer = weight_initializer
        self.num_tasks = check_num_tasks("Linear", num_tasks)
        self.weight = Parameter(torch.empty(self._shape())) if in_channels > 0 else UninitializedParameter()
        self.bias = Parameter(torch.empty(self._shape()[:-1])) if bias else None
        self.reset_parameters()

    def _shape(self) -> tuple[int, ...]:
        shape = (self.out_channels, self.in_channels)
        return shape if self.num_tasks is None else (self.num_tasks, *shape)

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        if self.in_channels <= 0:
            return
        if self.weight_initializer == "glorot":
            bound = math.sqrt(6.0 / (self.out_channels + self.in_channels))
        else:  # torch.nn.Linear's, with its rounding
            bound = math.sqrt(6 / ((1 + math.sqrt(5) ** 2) * self.in_channels))
        with torch.no_grad():
            self.weight.uniform_(-bound, bound)
            if self.bias is not None:
                bound = 1.0 / math.sqrt(self.in_channels)
                self.bias.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """W x + b."""
        return self.product(x, self.bias)

    def product(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """W x + ``plus``, which has the shape of ``bias`` or of the output; the layer's own bias is left out."""
        if isinstance(self.weight, UninitializedParameter):
            self._allocate(self.weight, x.size(-1))
            self.reset_parameters()
        if self.num_tasks is None:
            return _product(x, self.weight, plus)
        if x.dim() == 2:
            out = _product(x, self.weight.flatten(0, 1), None if plus is None else plus.flatten(-2))
            return out.unflatten(1, (self.num_tasks, self.out_channels))
        return task_product(x, self.weight, plus)

    def _allocate(self, weight: UninitializedParameter, in_channels: int) -> None:
        self.in_channels = in_channels
        weight.materialize(self._shape())

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        # A lazy weight has no detach(); it is saved as it is.
        for name, value in self._parameters.items():
            if value is not None:
                destination[prefix + name] = value if keep_vars or is_lazy(value) else value.detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        given = state_dict.get(prefix + "weight")
        if given is not None and is_lazy(given):
            self.in_channels, self.weight = -1, UninitializedParameter()
        elif given is not None and is_lazy(self.weight):
            self._allocate(cast(UninitializedParameter, self.weight), given.size(-1))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __repr__(self) -> str:
        tasks = "" if self.num_tasks is None else f", num_tasks={self.num_tasks}"
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, bias={self.bias is not None}{tasks})"


def product(lin: Any, x: Tensor, plus: Tensor | None = None) -> Tensor:
    """W x + ``plus`` of a Linear, or of another library's linear map with a ``weight`` [C, F]."""
    return lin.product(x, plus) if isinstance(lin, Linear) else _product(x, lin.weight, plus)


def task_product(x: Tensor, weight: Tensor, plus: Tensor | None = None) -> Tensor:
    """W_t x_t + ``plus`` [T, C] or [N, T, C] for each task: x [N, T, F] times weight [T, C, F] is [N, T, C]."""
    left, right = x.transpose(0, 1), weight.transpose(1, 2)
    if plus is None:
        return torch.bmm(left, right).transpose(0, 1)
    plus = plus.unsqueeze(1) if plus.dim() == 2 else plus.transpose(0, 1)
    return torch.baddbmm(plus, left, right).transpose(0, 1)


def check_num_tasks(owner: str, num_tasks: int | None) -> int | None:
    """``num_tasks``, or ValueError unless it is None or at least 1."""
    if num_tasks is not None and (isinstance(num_tasks, bool) or not isinstance(num_tasks, int) or num_tasks < 1):
        raise ValueError(f"{owner}: num_tasks must be None or an integer of at least 1, got {num_tasks!r}")
    return num_tasks


def reset(value: Any) -> None:
    """Call ``reset_parameters`` of a module, or of the nearest of its children that have it."""
    if hasattr(value, "reset_parameters"):
        value.reset_parameters()
    else:
        for child in value.children() if hasattr(value, "children") else ():
            reset(child)


def _product(x: Tensor, weight: Tensor, plus: Tensor | None) -> Tensor:
    if plus is None or plus.dim() == 1:
        return F.linear(x, weight, plus)
    return torch.addmm(plus, x, weight.t())
