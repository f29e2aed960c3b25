"""Checks of arguments: what was required, what was given, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastgmtl.graph import Graph

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def dense_floating(op: str, name: str, value: Tensor) -> None:
    """TypeError unless ``value`` is dense and of a type that kernels take."""
    if value.dtype in _FLOATS and value.layout == torch.strided:
        return
    if value.layout != torch.strided:
        raise TypeError(f"{op}: {name} must be a dense tensor, got layout {value.layout}; convert it with .to_dense()")
    wanted = "float32, float64, bfloat16 or float16" if value.is_floating_point() else "floating point"
    raise TypeError(f"{op}: {name} must be {wanted}, got {_dtype(value)}; convert it with .float()")


def graph_argument(op: str, graph: Any) -> None:
    """TypeError unless ``graph`` is a Graph."""
    if not isinstance(graph, Graph):
        raise TypeError(
            f"{op}: graph must be a fastgmtl.Graph, got {type(graph).__name__}; "
            "build one with Graph.from_edge_index(edge_index)"
        )


def one_of(op: str, name: str, value: Any, choices: Sequence[str]) -> None:
    """ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{op}: {name} must be one of {', '.join(choices)}, got {value!r}")


def floating_tensor(op: str, name: str, value: Any) -> None:
    """TypeError unless ``value`` is a floating point tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(value).__name__}; wrap it in torch.as_tensor")
    dense_floating(op, name, value)


def features(op: str, name: str, value: Any, nodes: int, what: str) -> None:
    """TypeError or ValueError unless ``value`` is floating point, [nodes, d] or [nodes, T, d]."""
    floating_tensor(op, name, value)
    if value.dim() not in (2, 3):
        raise ValueError(f"{op}: {name} must have shape [N, d] or [N, T, d], got {list(value.shape)}")
    if value.size(0) != nodes:
        raise ValueError(
            f"{op}: {name} must have {what} = {nodes} rows (one for each node of the graph), got {list(value.shape)}"
        )


def same_device(op: str, graph: Graph, value: Tensor) -> None:
    """ValueError unless ``value`` lies where the graph does."""
    if value.device != graph.col.device:
        raise ValueError(
            f"{op}: graph and tensors must be on one device, got {graph.device} and {value.device}; "
            "move the graph with .to(device)"
        )


def weights(op: str, value: Any, edges: int, tasks: int | None) -> None:
    """TypeError or ValueError unless ``value`` is floating point, [edges] or [edges, tasks]."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: weight must be a tensor or None, got {type(value).__name__}")
    dense_floating(op, "weight", value)
    fits = value.dim() in (1, 2) and value.size(0) == edges and (value.dim() == 1 or tasks in (None, value.size(1)))
    if not fits:
        wanted = f"[{edges}, {'T' if tasks is None else tasks}]"
        raise ValueError(f"{op}: weight must have shape [E] or [E, T] = {wanted}, got {list(value.shape)}")


def seed_argument(op: str, seed: Any) -> None:
    """TypeError or ValueError unless ``seed`` is None, an int or an int64 tensor of one element."""
    wanted = f"{op}: seed must be an int or an int64 tensor of one element, got"
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64:
            raise TypeError(f"{wanted} {_dtype(seed)}")
        if seed.numel() != 1:
            raise ValueError(f"{wanted} a tensor of shape {list(seed.shape)}")
    elif seed is not None and not isinstance(seed, int):
        raise TypeError(f"{wanted} {type(seed).__name__}")
