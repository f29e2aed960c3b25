"""A training step of StrucHIS on DBLP: our operators against two other formulations of the same step.

A formulation replaces the two operators and nothing else: parameters, gates, heads and losses are the same, and so is
the order of W and the sum over neighbours, which is ours. Dropout is off, so that all compute the same numbers.

* released: the softmax and the sums of the published code, a sparse COO matrix for every relation and task, whose
  gradient PyTorch forms as a dense matrix;
* composition: segments by scatter_reduce and index_add, sums by F.embedding_bag with weights, gates as in the twin;
  also compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.harness import OURS, Case, Floors, Provider, Settings
from fastgmtl import reference
from fastgmtl.data import Dataset, load
from fastgmtl.graph import Graph
from fastgmtl.methods import StrucHIS
from fastgmtl.methods.struchis import Config

PLACES = ("fastgmtl.nn.struchis_level", "fastgmtl.methods.struchis")


def composition(graph: Graph, value: Tensor, **options: Any) -> Tensor:
    """Attention of one head by segment operations and bags: value [N, T, 1, d] or [N, 1, d]."""
    rows, col, number = graph.edge_rows(), graph.col.long(), graph.num_dst
    score = options["score_src"][col] + options["score_dst"][rows]
    if options.get("score_type") is not None:
        score = score + options["score_type"][graph.sort_edges(options["edge_type"])]
    score = F.leaky_relu(score, options.get("negative_slope", 0.2)).flatten(1)
    index = rows.unsqueeze(1).expand_as(score)
    top = score.detach().new_full((number, score.size(1)), -torch.inf).scatter_reduce(0, index, score.detach(), "amax")
    share = (score - top[rows]).exp()
    total = share.new_zeros(number, share.size(1)).index_add(0, rows, share)
    share = share / total[rows]
    flat, width = value.flatten(1, -2), value.size(-1)
    bags = [
        F.embedding_bag(
            graph.col,
            flat[:, k].contiguous(),
            graph.row_ptr.to(graph.col.dtype),
            mode="sum",
            include_last_offset=True,
            per_sample_weights=share[:, k].contiguous(),
        )
        for k in range(share.size(1))
    ]
    return torch.stack(bags, 1).view(number, *value.shape[1:-1], width)


def released(data: Dataset) -> Callable[..., Tensor]:
    """Attention by a sparse matrix for each relation and task, as published."""
    hetero = data.hetero
    assert hetero is not None
    parts: dict[int, list[tuple[slice, slice, Tensor]]] = {}
    for name, count in hetero.num_nodes.items():
        packed = hetero.packed(name)
        edges = hetero.edge_index_dict()
        parts[id(packed.graph)] = [
            (slice(r, count * packed.num_relations, packed.num_relations), hetero.rows(relation[0]), edges[relation])
            for r, relation in enumerate(packed.relations)
        ]

    def attention(graph: Graph, value: Tensor, **options: Any) -> Tensor:
        if id(graph) not in parts:  # a head: all relations at once
            edges = graph.edge_index()
            score = options["score_type"][options["edge_type"]]
            return _sparse(slice(None), slice(None), edges, graph.num_dst, value, options, score)
        out = value.new_zeros(graph.num_dst, *value.shape[1:])
        for rows, tail, edges in parts[id(graph)]:
            number = len(range(graph.num_dst)[rows])
            out[rows] = _sparse(rows, tail, edges, number, value, options, None)
        return out

    return attention


def _sparse(
    rows: slice, tail: slice, edges: Tensor, number: int, value: Tensor, options: Any, more: Tensor | None
) -> Tensor:
    src, dst = edges
    score = options["score_src"][tail][src] + options["score_dst"][rows][dst]
    score = F.leaky_relu(score if more is None else score + more, 0.2).flatten(1)
    table, found = value[tail].flatten(1, -2), []
    for k in range(score.size(1)):
        size = (number, table.size(0))
        matrix = torch.sparse_coo_tensor(torch.stack([dst, src]), score[:, k], size)
        found.append(torch.sparse.mm(torch.sparse.softmax(matrix.coalesce(), 1), table[:, k]))
    return torch.stack(found, 1).view(number, *value.shape[1:])


@contextmanager
def formulation(attention: Callable[..., Tensor]) -> Iterator[None]:
    """The step with another attention, gates by the twin, and a backward that keeps all of forward, as PyTorch does."""
    with (
        patch(f"{PLACES[0]}.is_transformed", lambda: True),
        patch(f"{PLACES[0]}.attention", attention),
        patch(f"{PLACES[1]}.attention", attention),
        patch(f"{PLACES[0]}.relation_gate", reference.relation_gate),
    ):
        yield


def test_step(benchmark: Any, settings: Settings, threads: int) -> None:
    torch.set_num_threads(threads)
    data = load("dblp")
    torch.manual_seed(0)
    method = StrucHIS.build(data, Config(dropout=0.0), torch.Generator().manual_seed(0)).train()
    weights = [p for p in method.parameters() if p.requires_grad]

    def step() -> tuple[list[Tensor], list[Tensor]]:
        losses = list(method.step(data).values())
        return losses, [g for g in torch.autograd.grad(losses, weights, allow_unused=True) if g is not None]

    wanted = step()

    # Some gradients are sums that cancel: 1e-21 where others are 1, of which float32 has no digit.
    least = 1e-3 * max(float(b.abs().max()) for b in wanted[1])

    def error(found: Any) -> float:
        return max(
            float((a - b).abs().max() / b.abs().max().clamp(min=least))
            for mine, theirs in zip(found, wanted, strict=True)
            for a, b in zip(mine, theirs, strict=True)
        )

    def other(attention: Callable[..., Tensor], compiles: bool = False) -> Provider:
        def run() -> Any:
            with formulation(attention):
                return step()

        return Provider(run, error, compiles)

    providers: dict[str, Provider | str] = {OURS: Provider(step, error), "composition of bags": other(composition)}
    if settings.quick:
        providers["composition, torch.compile"] = providers["released"] = "left out by --quick: too slow for it"
    else:
        compiled = torch.compile(composition, options={"cpp.threads": threads})
        providers["composition, torch.compile"] = other(compiled, True)
        providers["released (COO)"] = other(released(data))
    case = Case("struchis", "StrucHIS step on DBLP", "fwdbwd", threads, data.num_nodes, data.graph.num_edges, 64, 2)
    settings.measure(benchmark, case, providers, Floors(output=0))


test_step = pytest.mark.parametrize(
    "threads", [pytest.param(1, marks=pytest.mark.quick, id="1"), pytest.param(2, id="2")]
)(test_step)
