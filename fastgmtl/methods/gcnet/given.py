"""Task graphs that are not learned."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from fastgmtl.data import Dataset
from fastgmtl.graph import Graph

Given = Literal["correlation", "known", "full", "empty"]
NEIGHBOURS = 4


def given_graph(
    kind: Given, dataset: Dataset, y: Tensor, variable: Tensor | None = None, directed: bool = False
) -> Graph:
    """A graph over T labels, the columns of y [n, K] (NaN: missing), without loops; each edge in both directions.

    variable [K]: the label that each column is a class of; None: every column is one.

    * correlation: each label and the NEIGHBOURS (at most T - 1) with which its training labels correlate the most, in
      absolute value (of classes the most of any), over the samples that have both; labels that are never seen together
      are not correlated;
    * known: the data set's ``task_graph``, in both directions, or as it is where the method's graphs are ``directed``;
    * full, empty.

    Raises ValueError for ``known`` where nothing is known.
    """
    count = y.shape[1] if variable is None else int(variable.max()) + 1
    if kind == "known":
        if dataset.task_graph is None or dataset.task_graph.num_dst != count:
            raise ValueError(
                f"graph: known requires a data set with a task graph over all {count} labels, such as scm:S1"
            )
        pairs = dataset.task_graph.edge_index()
        if directed:
            return dataset.task_graph
    elif kind == "correlation":
        related = correlation(y).abs()
        if variable is not None:
            flat = (variable[:, None] * count + variable).flatten()
            related = related.new_zeros(count**2).scatter_reduce(0, flat, related.flatten(), "amax").view(count, count)
        related.fill_diagonal_(-1)
        value, near = related.topk(min(NEIGHBOURS, count - 1), dim=1)
        here = torch.arange(count, device=y.device)[:, None].expand_as(near)
        pairs = torch.stack((near[value > 0], here[value > 0]))
    else:
        everything = torch.ones(count, count, dtype=torch.bool, device=y.device).fill_diagonal_(False)
        pairs = (everything if kind == "full" else everything & False).nonzero().t()
    both = torch.cat((pairs, pairs.flip(0)), 1)
    return Graph.from_edge_index(both.unique(dim=1), count, count)


def correlation(y: Tensor) -> Tensor:
    """Pearson's correlation [T, T] of the columns of y [n, T], each over the rows that have both; else 0."""
    known = ~y.isnan()
    m, v = known.double(), y.nan_to_num().double()
    n = m.t() @ m
    # Sums over the rows that have both: of the first column, of its square, of the product.
    first, square, product = v.t() @ m, v.square().t() @ m, v.t() @ v
    covariance = n * product - first * first.t()
    variance = (n * square - first.square()).clamp(min=0)
    scale = (variance * variance.t()).sqrt()
    return torch.where(scale > 1e-12 * n.square(), covariance / scale.clamp(min=1e-300), 0).to(y.dtype)
