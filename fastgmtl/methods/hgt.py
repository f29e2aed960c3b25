"""The heterogeneous graph transformer with one encoder for each task (single) or for all of them (shared)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import Parameter

from fastgmtl.data import Dataset
from fastgmtl.methods.encoders import EncoderConfig, SingleEncoder
from fastgmtl.methods.typed import typed
from fastgmtl.nn import HGTConv


@dataclass(frozen=True)
class Config(EncoderConfig):
    """dropout: of what a layer is given."""

    dropout: float = 0.2


class HGT(nn.Module):
    r"""S transformers side by side, in one pass over the edges: h [N, S, hidden] of all nodes to the same.

    .. math::
        h^0 = \tanh(x), \quad
        h^l_i = \gamma_\tau \, \mathrm{norm}(\mathrm{HGTConv}(\mathrm{drop}(h^{l-1}))_i) + \delta_\tau

    for a node i of type tau, with the mean and the deviation over the features in norm. Nodes of a type that no
    relation points to keep what they have. Source: Hu et al., Heterogeneous graph transformer, WWW 2020, and its code
    (the norm and tanh); :class:`fastgmtl.nn.HGTConv` has the formulas of the layer.
    """

    def __init__(self, dataset: Dataset, config: Config, sets: int) -> None:
        super().__init__()
        graph, self.dropout = typed(dataset).hetero, config.dropout
        metadata, width = (list(graph.node_types), list(graph.relations)), config.hidden
        self.convs = nn.ModuleList(
            HGTConv(width, width, metadata, config.heads, num_tasks=sets) for _ in range(config.layers)
        )
        self.reached = [name for name in graph.node_types if graph.packed(name).num_relations]
        shape = config.layers, len(self.reached), sets, width
        self.scale, self.shift = Parameter(torch.ones(shape)), Parameter(torch.zeros(shape))

    def forward(self, h: Tensor, batch: Dataset) -> Tensor:
        """The embeddings of the S encoders."""
        graph = typed(batch).hetero
        parts = graph.split_nodes(h.tanh())
        for conv, scales, shifts in zip(self.convs, self.scale, self.shift, strict=True):
            found = conv({t: F.dropout(part, self.dropout, self.training) for t, part in parts.items()}, graph)
            for name, scale, shift in zip(self.reached, scales, shifts, strict=True):
                parts[name] = torch.addcmul(shift, F.layer_norm(found[name], scale.shape[-1:]), scale)
        return graph.join_nodes(parts)


class SingleHGT(SingleEncoder):
    """A heterogeneous graph transformer for each task by itself. Source: see :class:`HGT`."""

    config_type = Config
    encoder_type = HGT


class SharedHGT(SingleHGT):
    """A heterogeneous graph transformer shared by all tasks, one head a task."""

    shares = True
