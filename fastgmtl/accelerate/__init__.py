"""Swapping the layers of a PyTorch Geometric model for fast ones, in place, with a report and an exact undo."""

from fastgmtl.accelerate.report import Report, Row
from fastgmtl.accelerate.swap import accelerate_, deaccelerate_

__all__ = ["Report", "Row", "accelerate_", "deaccelerate_"]
