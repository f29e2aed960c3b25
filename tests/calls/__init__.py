"""Every operator of the package on drawn operands, by name: a file for each family."""

from calls import attention, blocks, draws, energy, gates, gather, groups, lists, relational, trilinear
from calls.base import Call, Draw, Maker

CALLS: dict[str, Maker] = {
    name: maker
    for family in (trilinear, lists, attention, gates, groups, energy, gather, relational, blocks, draws)
    for name, maker in family.CALLS.items()
}

__all__ = ["CALLS", "Call", "Draw", "Maker"]
