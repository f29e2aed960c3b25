"""The pure-PyTorch twins: they define what every kernel must return, with the same names and signatures."""

from fastgmtl.reference.attention import attention
from fastgmtl.reference.combine import combine
from fastgmtl.reference.gram import gram
from fastgmtl.reference.grouped_matmul import grouped_matmul
from fastgmtl.reference.relation_gate import relation_gate
from fastgmtl.reference.sddmm import sddmm
from fastgmtl.reference.spmm import spmm

__all__ = ["attention", "combine", "gram", "grouped_matmul", "relation_gate", "sddmm", "spmm"]
