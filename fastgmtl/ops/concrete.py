r"""concrete: graphs between tasks whose edges are drawn, with a gradient to their log-odds.

The operator within gives a hard sample (order 0) or v times a derivative of the soft one,

.. math:: \partial_l^n \; \sigma\bigl((\mathrm{clamp}(l) + g) / \tau\bigr)

whose random numbers g are a function of the seed and the pair. A derivative by l raises n, one by v is the operator
itself, and the derivative of order 0 is taken to be that of the soft sample.
"""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import torch
from torch import Tensor

from fastgmtl import backend, csr, reference
from fastgmtl.graph import Graph
from fastgmtl.ops import fold
from fastgmtl.ops.check import floating_tensor, seed_argument
from fastgmtl.ops.operator import Operator, is_transformed
from fastgmtl.reference.attend import seed_tensor
from fastgmtl.reference.concrete import concrete_sample


class _Concrete(Operator):
    """Of all pairs, logits [T, T], or of those from ``src`` to ``dst``, int64 [E], logits [E]; v (as logits) from order
    1 on, else None."""

    name = "concrete"
    tensors = ("logits", "v", "src", "dst", "seed")
    options = (("order", "int"), ("temperature", "float"), ("explore", "float"))
    takes_graph = False

    @staticmethod
    def kernel(kernels: Any, graph: None, *args: Any) -> Tensor:
        out = _Concrete.fake(graph, *args)
        given = [None if v is None else v.contiguous() for v in args[:5]]
        kernels.concrete(*given, *args[5:], out, torch.get_num_threads())
        return out

    reference = staticmethod(concrete_sample)

    @staticmethod
    def fake(graph: None, logits: Any, *_: Any) -> Tensor:
        return torch.empty_like(logits, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(
        call: Any,
        needs: Any,
        grads: Any,
        _: Any,
        graph: None,
        logits: Any,
        v: Any,
        src: Any,
        dst: Any,
        seed: Any,
        order: int,
        *numbers: float,
    ) -> Any:
        g = grads[0]
        if g is None:
            return (None,) * 5

        def run(v: Any, order: int) -> Any:
            return call(concrete_op)(None, logits, v, src, dst, seed, order, *numbers)

        d_logits = run(g if v is None else g * v, order + 1) if needs[0] else None
        return d_logits, run(g, order) if needs[1] else None, None, None, None

    @staticmethod
    def vmap(size: int, dims: Any, graph: None, *args: Any) -> Any:
        return fold.each(concrete_op, size, dims, args)


concrete_op = _Concrete()


@overload
def concrete(
    logits: Tensor,
    temperature: float = 1.0,
    explore: float = 0.0,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    dense: Literal[False] = False,
) -> tuple[Graph, Tensor]: ...
@overload
def concrete(
    logits: Tensor,
    temperature: float = 1.0,
    explore: float = 0.0,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    dense: Literal[True],
) -> Tensor: ...
def concrete(
    logits: Tensor,
    temperature: float = 1.0,
    explore: float = 0.0,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    dense: bool = False,
) -> Tensor | tuple[Graph, Tensor]:
    r"""Draw a graph between T tasks, each edge by itself, with a gradient to its log-odds.

    .. math:: A_{st} = [\, l_{st} + g_{st} > 0 \,], \qquad
        \frac{\partial A_{st}}{\partial l_{st}} := \frac{\partial}{\partial l_{st}}
        \sigma\bigl((l_{st} + g_{st}) / \tau\bigr), \qquad g \text{ logistic}

    so an edge is there with the probability :math:`\sigma(l_{st})`, and the gradient goes straight through the step. No
    task has an edge to itself.

    Args:
        logits: l [T, T], row the cause; float32, float64, bfloat16 or float16. What the diagonal holds does not matter.
        temperature: tau, positive: the smaller, the closer the soft sample is to the hard one.
        explore: in [0, 0.5]: probabilities are clamped to [explore, 1 - explore]; what is beyond has no gradient.
        seed: an int or an int64 tensor of one element: the same seed draws the same graph, on any device and for any
            number of threads. By default drawn from ``generator`` (by default PyTorch's, of the device).
        generator: for ``seed``.
        dense: whether all pairs are asked for, those that were not drawn too.

    Returns:
        The graph of the edges that were drawn, an edge from each cause to its effect, sorted by effect, then cause; and
        whether each is there, [E]: ones, with the gradient to the log-odds of these edges. With ``dense`` the sample
        [T, T], zeros and ones, with a gradient to the log-odds of all pairs.

    Differentiable to the eighth order (derivatives are those of the soft sample). One pass over the log-odds, in which
    random numbers are made where they are used; without ``dense`` a bit a pair is all that is written besides the edges
    (and the gradient of the log-odds [T, T]). How many edges there are must be known to make the graph: on a GPU the
    host waits for this number, and without ``dense`` torch.compile runs it beside its own code and torch.func refuses.

    Source: Maddison, Mnih and Teh, The concrete distribution, ICLR 2017; gradients straight through, Bengio, Léonard
    and Courville 2013.

    Raises:
        TypeError: logits is not a floating point tensor (without ``dense`` a plain one), seed is of the wrong kind.
        ValueError: logits is not square, a number is out of its range.
    """
    floating_tensor("concrete", "logits", logits)
    if logits.dim() != 2 or logits.size(0) != logits.size(1):
        raise ValueError(f"concrete: logits must have shape [T, T], got {list(logits.shape)}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"concrete: temperature must be positive, got {temperature}")
    if not 0 <= explore <= 0.5:
        raise ValueError(f"concrete: explore must be in [0, 0.5], got {explore}")
    seed_argument("concrete", seed)
    seed = seed_tensor(seed, generator, logits.device)
    kernels = backend.kernels_for(logits.device)
    if kernels is None:
        return reference.concrete(logits, temperature, explore, seed, dense=dense)
    numbers = (0, float(temperature), float(explore))
    if dense:
        found: Tensor = concrete_op(None, logits, None, None, None, seed, *numbers)
        return found
    graph = _drawn(kernels, logits.detach(), seed, numbers)
    src, dst = graph.col.long(), graph.edge_rows()
    picked = logits.flatten().index_select(0, src * graph.num_src + dst)
    return graph, concrete_op(None, picked, None, src, dst, seed, *numbers)


@torch.compiler.disable
def _drawn(kernels: Any, logits: Tensor, seed: Tensor, numbers: tuple[int, float, float]) -> Graph:
    """The graph of a sample."""
    if is_transformed() or type(logits) is not Tensor:
        raise TypeError(
            "concrete: logits must be a plain tensor where a graph is drawn (how many edges there are depends on its "
            "values), not one of torch.func, FakeTensor or a subclass; ask for dense=True"
        )
    tasks = logits.size(0)
    words = torch.empty(tasks, (tasks + 31) // 32, dtype=torch.int32, device=logits.device)
    counts = torch.zeros(tasks + 1, dtype=torch.int64, device=logits.device)
    threads = torch.get_num_threads()
    kernels.concrete_draw(logits.contiguous(), seed, numbers[2], words, counts, threads)
    row_ptr = counts.cumsum(0)
    edges = int(row_ptr[-1])
    col = torch.empty(edges, dtype=csr.index_dtype(edges, tasks), device=logits.device)
    kernels.concrete_edges(words, row_ptr, col, threads)
    return Graph(row_ptr, col, None, tasks)
