"""The pure-PyTorch twins: they define what every kernel must return, with the same names and signatures."""

from fastgmtl.reference.attention import attention
from fastgmtl.reference.block_spmm import block_spmm
from fastgmtl.reference.combine import combine
from fastgmtl.reference.concrete import concrete
from fastgmtl.reference.edge_delta import edge_delta
from fastgmtl.reference.flip_energy import flip_energy
from fastgmtl.reference.gather_relu import gather_relu
from fastgmtl.reference.gibbs import gibbs
from fastgmtl.reference.gram import gram
from fastgmtl.reference.grouped_matmul import grouped_matmul
from fastgmtl.reference.intersect import intersect
from fastgmtl.reference.relation_gate import relation_gate
from fastgmtl.reference.relu_sum import relu_sum
from fastgmtl.reference.rspmm import rspmm
from fastgmtl.reference.sddmm import sddmm
from fastgmtl.reference.spmm import spmm

__all__ = [
    "attention",
    "block_spmm",
    "combine",
    "concrete",
    "edge_delta",
    "flip_energy",
    "gather_relu",
    "gibbs",
    "gram",
    "grouped_matmul",
    "intersect",
    "relation_gate",
    "relu_sum",
    "rspmm",
    "sddmm",
    "spmm",
]
