"""What the nodes of a task graph are: labels of 0 and 1, numbers and classes, in columns side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Variables(nn.Module):
    """T variables in K columns: one for a label of 0 and 1 or for a number, of others one a class (one of them is 1).

    ``widths``: the number of classes of each variable, 1 for the others; ``numbers``: whether it is a number.
    Values are y [B, K] with NaN in every column of a variable that is missing.

    Buffers: variable [K], of each column; first [T], the first column of each; size [K], the columns of its variable;
    numbers and classes, bool [K].
    """

    variable: Tensor
    first: Tensor
    size: Tensor
    numbers: Tensor
    classes: Tensor

    def __init__(self, widths: Sequence[int], numbers: Sequence[bool]) -> None:
        super().__init__()
        width = torch.tensor(widths, dtype=torch.int64)
        variable = torch.arange(len(width)).repeat_interleave(width)
        self.register_buffer("variable", variable)
        self.register_buffer("first", width.cumsum(0) - width)
        self.register_buffer("size", width[variable])
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.bool)[variable])
        self.register_buffer("classes", width[variable] > 1)
        # Known without asking the device: the columns of each variable, and which are no numbers.
        ends = width.cumsum(0).tolist()
        self.columns = [slice(end - size, end) for end, size in zip(ends, width.tolist(), strict=True)]
        self.choices = [k for k, number in enumerate(numbers) if not number]
        self.plain = len(variable) == len(width)
        self.has_numbers = any(numbers)
        self.binary = self.plain and not self.has_numbers

    @property
    def count(self) -> int:
        """T."""
        return len(self.first)

    @property
    def width(self) -> int:
        """K."""
        return len(self.variable)

    @property
    def discrete(self) -> Tensor:
        """Which variables [T] are labels or classes."""
        return ~self.numbers[self.first]

    def known(self, y: Tensor) -> Tensor:
        """Which variables [B, T] are not missing in y [B, K]."""
        return ~y[..., self.first].isnan()

    def pool(self, value: Tensor) -> Tensor:
        """Sums [..., T] over the columns [..., K] of each variable."""
        if self.plain:
            return value
        return value.new_zeros(*value.shape[:-1], self.count).index_add(-1, self.variable, value)

    def values(self, y: Tensor) -> Tensor:
        """v [B, K] that act on others: 2 y - 1, a number itself, y - 1 / C of C classes; NaN where missing."""
        return torch.where(self.numbers, y, torch.where(self.classes, y - 1 / self.size.to(y.dtype), 2 * y - 1))

    def guesses(self, logits: Tensor) -> Tensor:
        """v [B, K] as the logits expect it."""
        chance = (logits / 2).tanh()  # 2 sigma - 1
        if not self.plain:
            chance = torch.where(self.classes, self.log_softmax(logits).exp() - 1 / self.size.to(logits.dtype), chance)
        return torch.where(self.numbers, logits, chance)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Over the columns [..., K] of each variable; 0 where it has but one."""
        top = self._top(logits.detach())
        total = self.pool((logits - top).exp())[..., self.variable]
        return logits - top - total.log()

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """-log P [..., T] of labels and classes y [..., K]; 0 where they are missing, and of numbers."""
        known, y = ~y.isnan(), y.nan_to_num()
        each = F.binary_cross_entropy_with_logits(logits, y.expand_as(logits), reduction="none")
        if not self.plain:
            each = torch.where(self.classes, -y * self.log_softmax(logits), each)
        return self.pool(torch.where(known & ~self.numbers, each, 0))

    def draw(self, logits: Tensor, uniform: Tensor | None = None) -> Tensor:
        """y [B, K] of labels and classes that have these logits; of numbers the logits themselves.

        ``uniform`` [B, K]: the numbers in [0, 1) to draw by, or new ones.
        """
        uniform = torch.rand_like(logits) if uniform is None else uniform
        drawn = (uniform < logits.sigmoid()).to(logits.dtype)
        if not self.plain:
            # With Gumbel's noise the largest is drawn by the softmax.
            drawn = torch.where(self.classes, self._largest(logits - (-uniform.clamp(min=1e-30).log()).log()), drawn)
        return torch.where(self.numbers, logits, drawn)

    def likeliest(self, logits: Tensor) -> Tensor:
        """y [B, K] of the greatest probability."""
        chosen = (logits > 0).to(logits.dtype)
        if not self.plain:
            chosen = torch.where(self.classes, self._largest(logits), chosen)
        return torch.where(self.numbers, logits, chosen)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Of 1 in each column [B, K]; numbers are what they are."""
        chance = logits.sigmoid()
        if not self.plain:
            chance = torch.where(self.classes, self.log_softmax(logits).exp(), chance)
        return torch.where(self.numbers, logits, chance)

    def _top(self, value: Tensor) -> Tensor:
        """The largest of the columns of each variable, in all of them."""
        if self.plain:
            return value
        least = value.new_full((*value.shape[:-1], self.count), -torch.inf)
        return least.scatter_reduce(-1, self.variable.expand_as(value), value, "amax")[..., self.variable]

    def _largest(self, value: Tensor) -> Tensor:
        return (value == self._top(value)).to(value.dtype)

    def expand(self, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Of edges [2, E] between variables those between columns of their ends [2, E'], and the edge of each [E']."""
        if self.plain:
            return edges, torch.arange(edges.shape[1], device=edges.device)
        sizes = self.size[self.first]
        source, target = edges
        many = sizes[source] * sizes[target]
        owner = torch.arange(edges.shape[1], device=edges.device).repeat_interleave(many)
        place = torch.arange(len(owner), device=edges.device) - (many.cumsum(0) - many)[owner]
        step = sizes[target][owner]
        at_source = self.first[source][owner] + place.div(step, rounding_mode="floor")
        return torch.stack((at_source, self.first[target][owner] + place % step)), owner

    def blocks(self, table: Tensor) -> Tensor:
        """[T, T] of a table [K, K]: its entries, or the root of the mean square of the block of a pair with classes."""
        if self.plain:
            return table
        sizes = self.size[self.first].to(table.dtype)
        sums = self.pool(self.pool(table.square()).t()).t()
        mean = (sums / (sizes[:, None] * sizes)).sqrt()
        single = sizes == 1
        return torch.where(single[:, None] & single, table[self.first][:, self.first], mean)
