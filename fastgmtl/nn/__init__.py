"""Layers with PyTorch Geometric's signatures, and their multi-task forms (``num_tasks=T``)."""

from fastgmtl.nn.gcn_conv import GCNConv
from fastgmtl.nn.gin_conv import GINConv
from fastgmtl.nn.graph_conv import GraphConv
from fastgmtl.nn.linear import Linear
from fastgmtl.nn.molecule_encoder import MoleculeEncoder
from fastgmtl.nn.sage_conv import SAGEConv

__all__ = ["GCNConv", "GINConv", "GraphConv", "Linear", "MoleculeEncoder", "SAGEConv"]
