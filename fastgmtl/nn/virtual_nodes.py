"""VirtualNodes: nodes besides those of a graph that all of them write to and read from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import Parameter

from fastgmtl.graph import Graph
from fastgmtl.nn.linear import Linear, check_num_tasks
from fastgmtl.ops.check import one_of
from fastgmtl.ops.spmm import spmm


class VirtualNodes(nn.Module):
    r"""Messages between any two nodes of a graph in one layer, by way of G virtual nodes.

    .. math:: z_{b,g} = \mathrm{reduce}_{v \in b} \; s_{v,g} W_1 x_v, \quad
              x'_v = x_v + \sum_g s'_{g,v} W_2 z_{b(v),g}

    The virtual nodes of a batch of graphs are those of each graph b. s and s' are 1, or given, or learned for the nodes
    of one graph: softmax_g(relu(<e_v, f_g>)), with tables e and f for s and others for s'. Source: Cao, Zhuang, Zhao
    and Wang, Virtual nodes improve long-term traffic prediction, arXiv 2501.10048, whose adaptive adjacency matrix this
    is; which side its softmax is taken over is a choice made here.

    With ``num_tasks=T`` every task has one virtual node, and weights of its own: the tasks share a graph, each sees it
    as a star. The learned softmax is then over the tasks.

    Args:
        channels: d.
        num_virtual: G; with tasks it must be 1, which is one for each.
        hidden_channels: width of z; None means d.
        aggr: "mean" or "sum".
        num_nodes: None, or N, the nodes of the one graph for which s and s' are learned.
        embedding_dim: width of the tables e and f.
        num_tasks: None, or T.

    Parameters: ``lin1.weight`` [h, d], ``lin2.weight`` [d, h], with tasks [T, h, d] and [T, d, h]; where weights are
    learned ``nodes`` [2, N, r], ``virtual`` [2, G, r] (with tasks G is T): the tables of s, then of s'.

    Shapes: x [N, d]; batch None or [N], int64, the graph of each node; weight None or [N, G]; output [N, d]. With tasks
    x [N, d] or [N, T, d], weight [N, T], output [N, T, d]. A graph without nodes is allowed, and an empty one.

    The graph gets no edges: what is written besides x' is of the size of s and of z.

    Raises:
        ValueError: a shape does not fit, G > 1 without weights (the virtual nodes would be equal).
    """

    def __init__(
        self,
        channels: int,
        num_virtual: int = 1,
        hidden_channels: int | None = None,
        aggr: str = "mean",
        num_nodes: int | None = None,
        embedding_dim: int = 8,
        *,
        num_tasks: int | None = None,
    ) -> None:
        super().__init__()
        one_of("VirtualNodes", "aggr", aggr, ("mean", "sum"))
        self.num_tasks = check_num_tasks("VirtualNodes", num_tasks)
        for name, value in (("num_virtual", num_virtual), ("embedding_dim", embedding_dim)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"VirtualNodes: {name} must be an integer of at least 1, got {value!r}")
        if num_tasks is not None and num_virtual != 1:
            raise ValueError(f"VirtualNodes: num_virtual must be 1 with num_tasks, one for each, got {num_virtual}")
        self.channels, self.aggr = channels, aggr
        self.num_virtual = num_virtual if num_tasks is None else num_tasks
        hidden = channels if hidden_channels is None else hidden_channels
        self.lin1 = Linear(channels, hidden, False, "glorot", num_tasks)
        self.lin2 = Linear(hidden, channels, False, "glorot", num_tasks)
        self.nodes = self.virtual = None
        if num_nodes is not None:
            self.nodes = Parameter(torch.empty(2, num_nodes, embedding_dim))
            self.virtual = Parameter(torch.empty(2, self.num_virtual, embedding_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        self.lin1.reset_parameters()
        self.lin2.reset_parameters()
        if self.nodes is not None and self.virtual is not None:
            nn.init.normal_(self.nodes)
            nn.init.normal_(self.virtual)

    def forward(
        self, x: Tensor, batch: Tensor | None = None, batch_size: int | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """x' of the formula above; ``batch_size`` is the number of graphs, by default the largest of ``batch`` + 1."""
        self._check(x, batch, weight)
        write, read = (weight, weight) if self.nodes is None else self.weights()
        member = _members(x, batch, batch_size)
        each = self.lin2(self.lin1(self._write(member, x, write)))
        return self._read(member, x, each, read)

    def weights(self) -> tuple[Tensor, Tensor]:
        """The learned s and s' [N, G]."""
        if self.nodes is None or self.virtual is None:
            raise ValueError("VirtualNodes: weights are learned with num_nodes=N only")
        write, read = torch.bmm(self.nodes, self.virtual.mT).relu().softmax(-1)
        return write, read

    def _check(self, x: Tensor, batch: Tensor | None, weight: Tensor | None) -> None:
        tasks = self.num_tasks
        if not (x.size(-1) == self.channels and (x.dim() == 2 or (x.dim() == 3 and x.size(1) == tasks))):
            wanted = "[N, d]" if tasks is None else f"[N, d] or [N, T, d] with T = {tasks}"
            raise ValueError(f"VirtualNodes: x must have shape {wanted} and d = {self.channels}, got {list(x.shape)}")
        if self.nodes is not None and (x.size(0) != self.nodes.size(1) or weight is not None):
            given = f"{x.size(0)} nodes" if weight is None else "a weight"
            raise ValueError(
                f"VirtualNodes: its weights are learned for {self.nodes.size(1)} nodes, got {given}; leave num_nodes "
                "out for weights of 1 or given ones"
            )
        wanted_shape = [x.size(0), self.num_virtual]
        if weight is not None and list(weight.shape) != wanted_shape:
            raise ValueError(f"VirtualNodes: weight must have shape [N, G] = {wanted_shape}, got {list(weight.shape)}")
        if batch is not None and list(batch.shape) != [x.size(0)]:
            raise ValueError(f"VirtualNodes: batch must have shape [N] = [{x.size(0)}], got {list(batch.shape)}")
        if tasks is None and self.num_virtual > 1 and weight is None and self.nodes is None:
            raise ValueError(
                f"VirtualNodes: {self.num_virtual} virtual nodes without weights are equal; give weight [N, G], or "
                "num_nodes=N to learn it"
            )

    def _write(self, member: Graph | None, x: Tensor, weight: Tensor | None) -> Tensor:
        """z before W_1: [B, G, d], [B, T, d], or [B, d] where there is one virtual node, or one input for all tasks."""
        if member is not None:
            return spmm(member, x, None if weight is None else weight.to(x.dtype), self.aggr)
        if weight is None:
            total = x.sum(0)
        elif x.dim() == 2:
            total = weight.to(x.dtype).mT @ x
        else:
            total = torch.einsum("nt,ntd->td", weight.to(x.dtype), x)
        return (total / max(1, x.size(0)) if self.aggr == "mean" else total).unsqueeze(0)

    def _read(self, member: Graph | None, x: Tensor, each: Tensor, weight: Tensor | None) -> Tensor:
        """x' of what the virtual nodes say, [B, G, d], [B, T, d] or [B, d]."""
        weight = None if weight is None else weight.to(each.dtype)
        if self.num_tasks is not None:
            x = x if x.dim() == 3 else x.unsqueeze(1)
            if member is not None:
                return x + spmm(member.t(), each, weight)
            return x + (each if weight is None else weight.unsqueeze(-1) * each)
        if weight is None:
            return x + (each if member is None else spmm(member.t(), each))
        if member is None:
            return torch.addmm(x, weight, each[0])
        return x + spmm(_readers(member, self.num_virtual), each.flatten(0, 1), weight.flatten())

    def extra_repr(self) -> str:
        tasks = "" if self.num_tasks is None else f", num_tasks={self.num_tasks}"
        count = f", num_virtual={self.num_virtual}" if self.num_tasks is None else ""
        return f"{self.channels}{count}, aggr={self.aggr}{tasks}"


def _members(x: Tensor, batch: Tensor | None, batch_size: int | None) -> Graph | None:
    """From nodes to their graphs; None where there is one graph."""
    if batch is None:
        return None
    if batch_size is None:
        batch_size = int(batch.max()) + 1 if batch.numel() else 0
    nodes = torch.arange(x.size(0), device=batch.device)
    return Graph.from_edge_index(torch.stack((nodes, batch)), x.size(0), batch_size)


def _readers(member: Graph, count: int) -> Graph:
    """From the virtual nodes (graph after graph, ``count`` each) to the nodes; entry v * count + g is s'_{g,v}."""
    graph = member.t().col.long()  # one edge a row, and the rows are the nodes
    col = (graph.unsqueeze(1) * count + torch.arange(count, device=graph.device)).flatten()
    return Graph.from_csr(torch.arange(0, col.numel() + 1, count, device=col.device), col, member.num_dst * count)
