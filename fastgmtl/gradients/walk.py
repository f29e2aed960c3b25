"""Which leaves a tensor was made of, read off autograd's graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def leaves(roots: Iterable[Tensor], stop: Iterable[Tensor] = ()) -> set[int]:
    """Ids of the leaf tensors that the roots depend on, without those that they reach through ``stop`` alone."""
    found: set[int] = set()
    seen: set[Any] = {tensor.grad_fn for tensor in stop if tensor.grad_fn is not None}
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
