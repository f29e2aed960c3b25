"""gibbs: sweeps of Gibbs sampling over the labels of a task graph, in one kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgmtl import backend
from fastgmtl.graph import Graph
from fastgmtl.ops.check import one_of, seed_argument
from fastgmtl.ops.edge_energy import samples
from fastgmtl.ops.operator import GRAPH, PARTS, flatten, is_transformed, unflatten
from fastgmtl.reference.attend import seed_tensor
from fastgmtl.reference.gibbs import orders, prepare, sweep


def gibbs(
    graph: Graph,
    bias: Tensor,
    coupling: Tensor,
    label: Tensor | None = None,
    known: Tensor | None = None,
    sweeps: int = 2,
    burn_in: int = 0,
    normalised: bool = True,
    order: str = "random",
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Sample binary labels from the energy of a task graph, one label after the other.

    With :math:`F_t = a_t + \sum_{s \to t} J_{st} (2 y_s - 1)` the energy is
    :math:`E(y) = \sum_t \mathrm{softplus}(F_t) - y_t F_t`, or without the softplus. Each step of a sweep draws one
    label from its probability given all others: its own mechanism and those of its children.

    Args:
        graph: over T tasks, without loops and parallel edges; an edge from a label to a label that depends on it.
        bias: a [B, T]; float32, float64, bfloat16 or float16.
        coupling: J, [E], or [B, E] for couplings of each sample; in the order in which the edges were given.
        label: [B, T], bool, or integers that are 0, 1, or negative: where to start. By default, and where negative,
            at 1 where the bias is positive, else at 0.
        known: bool [B, T]: labels that stay as they start. None: none.
        sweeps: how often every label is drawn.
        burn_in: sweeps, the first ones, that the mean leaves out.
        normalised: whether each mechanism is a probability of its own (the softplus), as of a causal model; otherwise
            the energy is that of a pairwise field, in which an edge acts both ways alike.
        order: "random", a new one for each sweep, or "colour": labels that do not depend on each other follow one
            another, in the same order in every sweep.
        seed: an int or an int64 tensor of one element: the same seed draws the same numbers, which are a function of
            seed, sweep, label and sample. By default drawn from ``generator`` (by default PyTorch's, of the device).
        generator: for ``seed``.

    Returns:
        Labels after the last sweep, bool [B, T]; and the mean over sweeps of the probability of 1 in each step (of
        labels that stay the label), [B, T], of the promoted dtype. Constants: nothing is differentiated.

    On GPUs there may be 4096 tasks (2048 in float64); an error says so.

    Raises:
        TypeError: graph is not a Graph, a tensor is of the wrong kind.
        ValueError: shapes, devices, numbers or the order do not fit; the graph has loops or parallel edges.
    """
    one_of("gibbs", "order", order, ("random", "colour"))
    seed_argument("gibbs", seed)
    if sweeps < 1 or not 0 <= burn_in < sweeps:
        raise ValueError(f"gibbs: there must be 0 <= burn_in < sweeps, got {burn_in} and {sweeps}")
    given = torch.zeros(bias.shape, dtype=torch.bool, device=bias.device) if label is None else label
    samples("gibbs", graph, bias, given, coupling)
    if known is not None:
        _check_known(known, bias)
    # Of edges that are being traced nothing is known; of one graph the answer is kept.
    if not is_transformed() and not _is_simple(graph):
        raise ValueError("gibbs: graph must have neither loops nor parallel edges; coalesce them")
    seed = seed_tensor(seed, generator, bias.device)
    with torch.no_grad():
        field, weight, start = prepare(graph, bias, coupling, label)
        steps = orders(graph, sweeps, order, normalised, seed)
        kept = None if known is None else known.t()
        args = (field, weight, start, kept, steps, seed, burn_in, normalised)
        drawn, mean = _packet(*flatten(graph), *args) if is_transformed() else _run(graph, *args)
    return drawn.t() > 0, mean.t()


def _check_known(known: Any, bias: Tensor) -> None:
    if not isinstance(known, Tensor) or known.dtype != torch.bool:
        given = str(known.dtype).removeprefix("torch.") if isinstance(known, Tensor) else type(known).__name__
        raise TypeError(f"gibbs: known must be a tensor of bool or None, got {given}")
    if known.shape != bias.shape or known.device != bias.device:
        raise ValueError(
            f"gibbs: known must have shape [B, T] = {list(bias.shape)} and be on {bias.device}, "
            f"got {list(known.shape)} on {known.device}"
        )


def _is_simple(graph: Graph) -> bool:
    if "simple" not in graph._lazy:
        src, dst = graph.edge_index()
        keys = dst * graph.num_src + src
        graph._lazy["simple"] = not bool((src == dst).any()) and keys.unique().numel() == keys.numel()
    return bool(graph._lazy["simple"])


def _run(
    graph: Graph,
    field: Tensor,
    weight: Tensor,
    start: Tensor,
    known: Tensor | None,
    order: Tensor,
    seed: Tensor,
    burn_in: int,
    normalised: bool,
) -> tuple[Tensor, Tensor]:
    kernels = backend.kernels_for(field.device)
    if kernels is None:
        return sweep(graph, field, weight, start, known, order, seed, burn_in, normalised)
    label, mean = (torch.empty_like(v, memory_format=torch.contiguous_format) for v in (start, field))
    kernels.gibbs(
        graph.t().pattern,
        field.contiguous(),
        weight.contiguous(),
        start.contiguous(),
        None if known is None else known.to(torch.int32, memory_format=torch.contiguous_format),
        order.contiguous(),
        seed,
        burn_in,
        normalised,
        label,
        mean,
        torch.get_num_threads(),
    )
    return label, mean


def _implementation(*args: Any) -> tuple[Tensor, Tensor]:
    graph = unflatten(args[:PARTS])
    assert graph is not None
    return _run(graph, *args[PARTS:])


def _fake(*args: Any) -> tuple[Tensor, Tensor]:
    field, _, start = args[PARTS : PARTS + 3]
    return start.new_empty(start.shape), field.new_empty(field.shape)


torch.library.define(
    "fastgmtl::gibbs",
    f"({GRAPH}, Tensor field, Tensor coupling, Tensor start, Tensor? known, Tensor order, Tensor seed, int burn_in, "
    "bool normalised) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.impl("fastgmtl::gibbs", ("CPU", "CUDA"), _implementation)
torch.library.register_fake("fastgmtl::gibbs", _fake)
_packet = torch.ops.fastgmtl.gibbs.default
