"""Layers with PyTorch Geometric's signatures, and their multi-task forms (``num_tasks=T``)."""

from fastgmtl.nn.common_neighbors import NCN, NCNC
from fastgmtl.nn.dagnn import DAGNN, DAGNNConv
from fastgmtl.nn.experts import PLE, Experts, MMoE, MultiSFS, SharedBottom
from fastgmtl.nn.gat_conv import GATConv
from fastgmtl.nn.gatv2_conv import GATv2Conv
from fastgmtl.nn.gcn_conv import GCNConv
from fastgmtl.nn.gin_conv import GINConv
from fastgmtl.nn.gine_conv import GINEConv
from fastgmtl.nn.graph_conv import GraphConv
from fastgmtl.nn.hgt_conv import HGTConv
from fastgmtl.nn.hyper_linear import HyperLinear
from fastgmtl.nn.inference import layerwise
from fastgmtl.nn.linear import Linear
from fastgmtl.nn.molecule_encoder import MoleculeEncoder
from fastgmtl.nn.nbfnet import NBFNet, NBFNetConv
from fastgmtl.nn.recompute import recompute
from fastgmtl.nn.rgcn_conv import RGCNConv
from fastgmtl.nn.sage_conv import SAGEConv
from fastgmtl.nn.self_tuning import SelfTuningLinear
from fastgmtl.nn.sheaf import NeuralSheafDiffusion, SheafConv
from fastgmtl.nn.simple_hgn_conv import SimpleHGNConv
from fastgmtl.nn.struchis_layer import StrucHISLayer
from fastgmtl.nn.transformer_conv import TransformerConv
from fastgmtl.nn.virgo import virgo_, virgo_variances
from fastgmtl.nn.virtual_nodes import VirtualNodes

__all__ = [
    "DAGNN",
    "NCN",
    "NCNC",
    "PLE",
    "DAGNNConv",
    "Experts",
    "GATConv",
    "GATv2Conv",
    "GCNConv",
    "GINConv",
    "GINEConv",
    "GraphConv",
    "HGTConv",
    "HyperLinear",
    "Linear",
    "MMoE",
    "MoleculeEncoder",
    "MultiSFS",
    "NBFNet",
    "NBFNetConv",
    "NeuralSheafDiffusion",
    "RGCNConv",
    "SAGEConv",
    "SelfTuningLinear",
    "SharedBottom",
    "SheafConv",
    "SimpleHGNConv",
    "StrucHISLayer",
    "TransformerConv",
    "VirtualNodes",
    "layerwise",
    "recompute",
    "virgo_",
    "virgo_variances",
]
