"""Operators: checks, allocation, gradients; the only callers of the kernels."""

from fastgmtl.ops.attention import attention
from fastgmtl.ops.block_spmm import block_spmm
from fastgmtl.ops.combine import combine
from fastgmtl.ops.common_neighbors import common_neighbors
from fastgmtl.ops.concrete import concrete
from fastgmtl.ops.edge_delta import edge_delta
from fastgmtl.ops.flip_energy import flip_energy
from fastgmtl.ops.gather_relu import gather_relu
from fastgmtl.ops.gcn_norm import gcn_norm
from fastgmtl.ops.gibbs import gibbs
from fastgmtl.ops.gram import gram
from fastgmtl.ops.grouped_matmul import grouped_matmul
from fastgmtl.ops.intersect import intersect
from fastgmtl.ops.neighbor_sample import neighbor_sample
from fastgmtl.ops.project import project
from fastgmtl.ops.relation_gate import relation_gate
from fastgmtl.ops.relu_sum import relu_sum
from fastgmtl.ops.rotate import rotate
from fastgmtl.ops.rspmm import rspmm
from fastgmtl.ops.sddmm import sddmm
from fastgmtl.ops.spmm import spmm

__all__ = [
    "attention",
    "block_spmm",
    "combine",
    "common_neighbors",
    "concrete",
    "edge_delta",
    "flip_energy",
    "gather_relu",
    "gcn_norm",
    "gibbs",
    "gram",
    "grouped_matmul",
    "intersect",
    "neighbor_sample",
    "project",
    "relation_gate",
    "relu_sum",
    "rotate",
    "rspmm",
    "sddmm",
    "spmm",
]
