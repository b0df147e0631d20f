"""What a run says while it trains: one line of figures."""

from __future__ import annotations

from typing import Any

from steady_runs import Progress, bar, duration


class Screen(Progress):
    def step(self, figures: dict[str, Any]) -> None:
        """One line on where training stands; see `_line` for the figures used."""
        self.show(_line(figures))


def _line(f: dict[str, Any]) -> str:
    parts = [
        f"epoch {f['epoch'] + 1}/{f['epochs']} {bar(f['share'])}",
        f"{f['images_per_s']:.0f} img/s",
        f"{duration(f['left_s'])} left",
        f"loss {f['loss']:.3f}",
    ]
    if "change" in f:
        parts.append(f"changed {f['change']:.0%}")
    if "smallest" in f:
        parts.append(f"clusters {f['smallest']:.0f}-{f['largest']:.0f} images, {f['effective_clusters']:.0f} effective")
    if f.get("knn_top1") is not None:
        parts.append(f"kNN {f['knn_top1']:.1f} %")
    return " | ".join(parts)
