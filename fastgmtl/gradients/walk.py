"""What tensors were made of, and where several of them part, read off autograd's graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge


def leaves(roots: Iterable[Tensor], stop: Iterable[Tensor] = (), nodes: Iterable[Any] = ()) -> set[int]:
    """Ids of the leaf tensors that the roots depend on, without those that they reach through ``stop`` (or the nodes)
    alone."""
    found: set[int] = set()
    seen: set[Any] = {*nodes, *(tensor.grad_fn for tensor in stop if tensor.grad_fn is not None)}
    blocked = {id(tensor) for tensor in stop}
    todo: list[Any] = []
    for root in roots:
        if root.grad_fn is not None and root.grad_fn not in seen:
            todo.append(root.grad_fn)
        elif root.grad_fn is None and root.requires_grad:
            found.add(id(root))
    seen.update(todo)
    while todo:
        node = todo.pop()
        variable = getattr(node, "variable", None)  # of the node that accumulates into a leaf
        if variable is not None:
            found.add(id(variable))
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return found - blocked


@dataclass(frozen=True)
class Parting:
    """Where the graphs of several roots part from what they share.

    ``edges`` lead into nodes that several roots reach, from nodes that one reaches alone: the gradient of a root in
    them is found on its own, the rest of the way is one for all. ``of`` has for each root the numbers of its edges;
    ``reached`` the ids of the leaves behind the edges.
    """

    edges: list[GradientEdge]
    of: list[list[int]]
    reached: set[int]


def parting(roots: Sequence[Tensor]) -> Parting:
    """Of roots that are no leaves."""
    nodes = [_nodes([root.grad_fn]) for root in roots]
    count = Counter(node for found in nodes for node in found)
    numbers: dict[tuple[Any, int], int] = {}
    edges: list[GradientEdge] = []
    of: list[list[int]] = []
    for root, found in zip(roots, nodes, strict=True):
        mine = []
        if count[root.grad_fn] > 1:
            mine.append(get_gradient_edge(root))
        for node in found:
            if count[node] == 1:
                pairs = ((f, k) for f, k in node.next_functions if f is not None and count[f] > 1)
                # A leaf that the root reaches directly has its gradient from the root alone.
                mine += [GradientEdge(f, k) for f, k in pairs if not hasattr(f, "variable")]
        keys = dict.fromkeys((edge.node, edge.output_nr) for edge in mine)
        for key in keys:
            if key not in numbers:
                numbers[key] = len(edges)
                edges.append(GradientEdge(*key))
        of.append([numbers[key] for key in keys])
    behind = _nodes({edge.node for edge in edges})
    return Parting(edges, of, {id(v) for node in behind if (v := getattr(node, "variable", None)) is not None})


def _nodes(starts: Iterable[Any]) -> set[Any]:
    """Every node that can be reached."""
    seen = set(starts)
    todo = list(seen)
    while todo:
        for following, _ in todo.pop().next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return seen
