"""gibbs in plain PyTorch: a step for every label of every sweep."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgmtl.graph import Graph
from fastgmtl.reference.attend import edge_ends, seed_tensor, wide
from fastgmtl.reference.edge_energy import softplus
from fastgmtl.reference.philox import philox
from fastgmtl.reference.spmm import spmm


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
    """Labels after the last sweep and means of the probabilities; see ops.gibbs."""
    seed = seed_tensor(seed, generator, bias.device)
    field, weight, start = prepare(graph, bias, coupling, label)
    kept = None if known is None else known.t()
    steps = orders(graph, sweeps, order, normalised, seed)
    drawn, mean = sweep(graph, field, weight, start, kept, steps, seed, burn_in, normalised)
    return drawn.t() > 0, mean.t()


def prepare(graph: Graph, bias: Tensor, coupling: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Fields [T, B] at the start, coupling [E] or [E, B] of their dtype, and labels int32 [T, B] at the start."""
    dtype = torch.promote_types(bias.dtype, coupling.dtype)
    bias, weight = bias.detach().to(dtype).t(), (coupling if coupling.dim() == 1 else coupling.t()).detach().to(dtype)
    start = bias > 0
    if label is not None:
        given = label.t()
        start = given if label.dtype == torch.bool else torch.where(given < 0, start, given > 0)
    sign = 2 * start.to(dtype) - 1
    of_parents = spmm(graph, sign, weight) if weight.dim() == 1 else spmm(graph, sign.unsqueeze(2), weight)[..., 0]
    return bias + of_parents, weight, start.to(torch.int32)


def orders(graph: Graph, sweeps: int, order: str, normalised: bool, seed: Tensor) -> Tensor:
    """Which label each step of each sweep is about, int32 [sweeps, T]."""
    tasks = graph.num_dst
    if order == "colour":
        return colours(graph, normalised).argsort(stable=True).to(torch.int32).expand(sweeps, -1)
    counter = torch.arange(sweeps * tasks, device=seed.device)
    # No sample has this number, so it is of no update.
    numbers = philox(seed, counter, torch.full_like(counter, -1))[0]
    return numbers.reshape(sweeps, tasks).argsort(dim=1, stable=True).to(torch.int32)


def colours(graph: Graph, normalised: bool) -> Tensor:
    """A colour for every label, int64 [T]: labels of one colour do not depend on each other given all others.

    Greedy, in the order of the labels. Neighbours differ; so do, where mechanisms are normalised, parents of one child.
    """
    src, dst = (end.tolist() for end in edge_ends(graph))
    around: list[set[int]] = [set() for _ in range(graph.num_dst)]
    parents: list[set[int]] = [set() for _ in range(graph.num_dst)]
    for s, t in zip(src, dst, strict=True):
        around[s].add(t), around[t].add(s), parents[t].add(s)
    for family in parents if normalised else ():
        for s in family:
            around[s] |= family - {s}
    found: list[int] = []
    for t, near in enumerate(around):
        taken = {found[s] for s in near if s < t}
        found.append(next(colour for colour in range(len(near) + 1) if colour not in taken))
    return torch.tensor(found, dtype=torch.int64, device=graph.device)


def sweep(
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
    """What csrc/contract/gibbs.h says: labels int32 [T, B] in the end, and means [T, B]."""
    back = graph.t()
    row_ptr = back.row_ptr.tolist()
    ids = torch.arange(graph.num_edges, device=field.device) if back.edge_id is None else back.edge_id.long()
    dtype, field, weight = field.dtype, wide(field).clone(), wide(weight)
    weight = weight.unsqueeze(1) if weight.dim() == 1 else weight
    y, mean = start.to(field.dtype), torch.zeros_like(field)
    sample = torch.arange(field.size(1), device=field.device)
    for n, row in enumerate(order.tolist()):
        for k in row:
            edges = slice(row_ptr[k], row_ptr[k + 1])
            children, j = back.col[edges].long(), weight[ids[edges]]
            logit = field[k] + (2 * y[children] * j).sum(0)
            if normalised:
                rest = field[children] - (2 * y[k] - 1) * j
                logit = logit + (softplus(rest - j) - softplus(rest + j)).sum(0)
            p = logit.sigmoid()
            numbers = torch.stack(philox(seed, torch.full_like(sample, n * len(row) + k), sample // 4))
            new = (numbers.gather(0, (sample % 4).unsqueeze(0))[0] < p.double() * 2**32).to(y.dtype)
            if known is not None:
                new, p = torch.where(known[k], y[k], new), torch.where(known[k], y[k], p)
            field.index_add_(0, children, 2 * (new - y[k]) * j)
            y[k] = new
            if n >= burn_in:
                mean[k] += p
    return y.to(torch.int32), (mean / (order.size(0) - burn_in)).to(dtype)
