"""One line of progress on a terminal."""

import sys
import threading


class Progress:
    """Counts fetched archives and bytes, and shows them on stderr if that is a terminal; safe to use from threads."""

    def __init__(self, folder: str, n_files: int, n_bytes: int) -> None:
        self._folder, self._n_files, self._n_bytes = folder, n_files, n_bytes
        self._files_done = self._bytes_done = 0
        self._lock = threading.Lock()
        self._shown = n_files > 0 and sys.stderr.isatty()  # a log file would fill up with lines
        self._show()

    def add(self, n_bytes: int) -> None:
        with self._lock:
            self._files_done, self._bytes_done = self._files_done + 1, self._bytes_done + n_bytes
            self._show()

    def close(self) -> None:
        if self._shown:
            print(file=sys.stderr)

    def _show(self) -> None:
        if self._shown:
            files = f"{self._files_done:,} of {self._n_files:,} archives"
            size = f"{self._bytes_done / 1e9:,.1f} of {self._n_bytes / 1e9:,.1f} GB"
            print(f"\rfetching to {self._folder}: {files}, {size}", end="", file=sys.stderr, flush=True)
