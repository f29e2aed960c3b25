"""CUDA streams: what is made on first need is kept for all of them; a CUDA graph captures what can be replayed."""

from __future__ import annotations

import torch


class Mark:
    """The point that the current stream of ``device`` has reached: what was made so far is there once it is past it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._event: torch.cuda.Event | None = torch.cuda.current_stream(device).record_event()

    def wait(self) -> None:
        """The current stream, and not the host, waits for the point. Free once that is past."""
        # An event of another stream cannot be captured. Nor need it: torch.cuda.graph waits for the device first.
        if self._event is None or torch.cuda.is_current_stream_capturing():
            return
        if self._event.query():
            self._event = None
        else:
            torch.cuda.current_stream(self._device).wait_event(self._event)


def is_capturing(device_type: str) -> bool:
    """Whether what is computed now becomes part of a CUDA graph: its numbers are there only after a replay."""
    if device_type != "cuda" or torch.compiler.is_compiling() or not torch.cuda.is_initialized():
        return False
    return torch.cuda.is_current_stream_capturing()


def refuse_capture(what: str, device_type: str) -> None:
    """RuntimeError if a CUDA graph is being captured: ``what`` needs the host to wait for the GPU."""
    if is_capturing(device_type):
        raise RuntimeError(
            f"graph: {what} while a CUDA graph is captured, since the host has to wait for its result; build the Graph "
            "outside, and run one step (forward and backward) before the capture, which builds all that the graph keeps"
        )
