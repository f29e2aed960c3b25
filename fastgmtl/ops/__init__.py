"""Operators: checks, allocation, gradients; the only callers of the kernels."""

from fastgmtl.ops.gcn_norm import gcn_norm
from fastgmtl.ops.sddmm import sddmm
from fastgmtl.ops.spmm import spmm

__all__ = ["gcn_norm", "sddmm", "spmm"]
