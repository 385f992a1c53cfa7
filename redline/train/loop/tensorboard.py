"""The numbers of a run as TensorBoard shows them, by PyTorch's own writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redline.errors import RedlineError

MISSING = (
    "TensorBoard logs need the package tensorboard: pip install 'redline[tensorboard]', or leave --tensorboard out"
)


class Board:
    """A folder of event files; raises `RedlineError` where the package is not installed."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RedlineError(MISSING) from error
        self.writer: Any = SummaryWriter(str(folder))

    def note(self, row: Mapping[str, Any]) -> None:
        """One line of the log: training numbers (those with a rate) or the scores of an evaluation."""
        group = "train" if "lr" in row else "dev"
        for key, value in row.items():
            if key != "step" and isinstance(value, int | float):
                self.writer.add_scalar(f"{group}/{key}", value, row["step"])
        self.writer.flush()  # a run is watched while it goes on

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()
