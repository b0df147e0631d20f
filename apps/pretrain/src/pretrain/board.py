"""TensorBoard's file of a run, written line by line in the training's own thread.

torch's `SummaryWriter` writes from a thread: on a full disk that thread dies with a traceback, and not where the run
could answer."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]


class Board:
    """Raises OSError where a line cannot be written. After a resume, TensorBoard drops what is later than `step`."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        # unbuffered: what could not be written now would be tried again, and complained of, when the process ends
        self._records = RecordWriter((folder / name).open("wb", buffering=0))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        if step:
            self._write(Event(wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, figures: Mapping[str, float], step: int) -> None:
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        self._records.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
