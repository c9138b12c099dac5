"""What applies a recording: processes of this machine, or a Spark cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spark:
    """A cluster.

    Attributes:
        master: its address; None: as Spark's own settings say.
        data: where Spark reads the recording, such as ``s3a://plant/pumps``; None: the folder
            that is given otherwise.
    """

    master: str | None
    data: str | None = None


Engine = int | Spark
"""How many processes at a time, or where Spark is."""
