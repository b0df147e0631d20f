"""TensorBoard's event file of a run, written line by line.

torch's `SummaryWriter` is not used, as it writes from a thread of its own: on a full disk that thread dies with a
traceback, where the run cannot handle the error.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]


class TensorBoardLog:
    """Writes scalars; raises OSError if a line cannot be written.

    Args:
        folder: Made if it is not there.
        step: Steps done so far. After a resume, TensorBoard drops what an earlier part of the run wrote after it.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        # unbuffered: a buffer that could not be written would be tried, and reported, again when the process ends
        self._records = RecordWriter((folder / name).open("wb", buffering=0))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if step:
            self.go_back(step)

    def add(self, figures: Mapping[str, float], step: int) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def go_back(self, step: int) -> None:
        """Let TensorBoard drop what was written for later steps than this."""
        self._write(Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def close(self) -> None:
        self._records.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
