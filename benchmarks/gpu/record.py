"""The record: `record.json` with every row, `record.md` to read, written anew after each part."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
RESULTS = ("ok", "measured", "WRONG", "failed", "not run")
MOST_COLUMNS = 9  # of a table in record.md


class Record:
    """about: facts of the whole run. parts: for each its status, seconds and rows, in order of the plan."""

    def __init__(self, folder: Path, about: Figures, names: list[str]) -> None:
        self.folder, self.about = folder, about
        self.parts: dict[str, Figures] = {name: {"status": "not reached", "rows": []} for name in names}
        folder.mkdir(parents=True, exist_ok=True)

    def write(self) -> None:
        _replace(self.folder / "record.json", json.dumps({"about": self.about, "parts": self.parts}, indent=1) + "\n")
        _replace(self.folder / "record.md", self.markdown())

    def count(self, result: str, name: str | None = None) -> int:
        """Rows with this result, of one part or of all."""
        parts = self.parts.values() if name is None else [self.parts[name]]
        return sum(row["result"].split(":")[0] == result for part in parts for row in part["rows"])

    def line(self, name: str) -> str:
        """One part, for the terminal."""
        part = self.parts[name]
        counts = ", ".join(f"{n} {result}" for result in RESULTS if (n := self.count(result, name)))
        return f"{name}: {part['status']} {part['message']} ({part['seconds']} s; {counts})"

    @property
    def is_clean(self) -> bool:
        """Every part ended by itself, and no row is wrong or failed."""
        return all(part["status"] == "done" for part in self.parts.values()) and not (
            self.count("WRONG") or self.count("failed")
        )

    def markdown(self) -> str:
        lines = [f"# {self.about['title']}", ""]
        lines += [f"- {name}: {value}" for name, value in self.about.items() if name != "title"]
        lines += ["", "| part | status | s | " + " | ".join(RESULTS) + " |", "| --- " * (3 + len(RESULTS)) + "|"]
        for name, part in self.parts.items():
            counts = " | ".join(str(self.count(result, name) or "") for result in RESULTS)
            lines.append(f"| {name} | {part['status']} | {part.get('seconds', '')} | {counts} |")
        wrong = []
        for name, part in self.parts.items():
            if part["status"] not in ("done", "running", "not reached"):
                wrong.append(f"- {name}: {part['status']} {part.get('message', '')}")
            wrong += [
                f"- {name}: {row['what']}: {row['result']}"
                for row in part["rows"]
                if row["result"].startswith(("WRONG", "failed"))
            ]
        lines += ["", "## What is wrong or failed", "", *(wrong or ["Nothing."])]
        for name, part in self.parts.items():
            lines += ["", f"## {name}", ""]
            lines += [f"{part['status']}: {part['message']}", ""] if part.get("message") else []
            lines += _tables(part["rows"])[:-1]
        return "\n".join(lines).rstrip() + "\n"


def _tables(rows: list[Figures]) -> list[str]:
    """Rows share a table while it stays narrow; a row with a text, such as a profile, ends it, and its text follows."""
    lines: list[str] = []
    table: list[Figures] = []
    for row in rows:
        if len(_columns([*table, row])) > MOST_COLUMNS:
            lines += _table(table)
            table = []
        table.append(row)
        if row.get("text"):
            lines += [*_table(table), *("    " + line for line in str(row["text"]).splitlines()), ""]
            table = []
    return lines + _table(table)


def _columns(rows: list[Figures]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row if name != "text"))


def _table(rows: list[Figures]) -> list[str]:
    if not rows:
        return []
    columns = _columns(rows)
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |" for row in rows]
    return [*lines, ""]


def _cell(value: Any) -> str:
    return str(value).replace("|", "/").replace("\n", " ")


def _replace(path: Path, text: str) -> None:
    beside = path.with_suffix(path.suffix + ".part")
    beside.write_text(text)
    os.replace(beside, path)
