"""What a swap did to each layer of a model, for people to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Row:
    """One layer.

    Attributes:
        name: where it is in the model; "" for the model itself.
        was, now: the names of its classes.
        kernel: the operators that run it; "" if it was left alone.
        reason: why it was left alone; "" if it was not.
        max_diff: of ``verify``, the largest difference of an output before and after; None without, or where the
            layer was not called.
        calls: how often it ran on the operators (key "") and, by reason, on its parent's path.
    """

    name: str
    was: str
    now: str
    kernel: str = ""
    reason: str = ""
    max_diff: float | None = None
    calls: Counter[str] = field(default_factory=Counter)

    def remark(self) -> str:
        """The last column of the table."""
        if self.reason:
            return self.reason
        parts = [] if self.max_diff is None else [f"max diff {self.max_diff:.1e}"]
        parts += [f"{count} x parent: {reason}" for reason, count in self.calls.items() if reason]
        return "; ".join(parts)


class Report(Sequence[Row]):
    """The rows of a swap, in the order of the model; ``print`` shows them as a table."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        return self.rows[index]

    @property
    def swapped(self) -> list[Row]:
        """Rows of the layers that have another class now."""
        return [row for row in self.rows if not row.reason]

    @property
    def left_alone(self) -> list[Row]:
        """Rows of the layers that are as they were, each with its reason."""
        return [row for row in self.rows if row.reason]

    def __str__(self) -> str:
        head = ("layer", "was", "now", "kernel", "remark")
        lines = [head, *((r.name or "(model)", r.was, r.now, r.kernel or "-", r.remark()) for r in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        table.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*table, f"{len(self.swapped)} of {len(self.rows)} layers accelerated"])

    def __repr__(self) -> str:
        return f"Report({len(self.swapped)} of {len(self.rows)} layers accelerated)"
