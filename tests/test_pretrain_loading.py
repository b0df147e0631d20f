"""Crops are the same wherever they are made: in a worker, here, of a resident set, of packed images as for a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from indexed_images import open_images
from PIL import Image
from pretrain import sources
from pretrain.cli import main
from pretrain.clock import SECTIONS, Clock
from pretrain.data import train_recipe
from pretrain.loader import Loader
from pretrain.settings import SwavSettings
from pretrain.sources import Source
from small_run import lines, run
from steady_runs import BadInput

CPU = torch.device("cpu")


def folder_of_photos(root: Path, sizes: list[tuple[int, int]]) -> str:
    root.mkdir()
    g = torch.Generator().manual_seed(0)
    for i, (height, width) in enumerate(sizes):
        pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=g)
        Image.fromarray(pixels.numpy()).save(root / f"{i:02d}.png")
    return f"folder:{root}"


def crops(spec: str, resident: str, workers: int, on_device: bool) -> list[torch.Tensor]:
    settings = SwavSettings(crops=("2x16@0.2-1", "1x8@0.1-0.3"), blur=0.5)
    source = Source.of(open_images(spec), resident, CPU)  # type: ignore[arg-type]
    loader = Loader(source, train_recipe(settings), seed=3, workers=workers, device=CPU, on_device=on_device)
    batches = list(loader.batches(2, [torch.tensor([4, 0, 9]), torch.tensor([7, 7])]))
    assert [rows.tolist() for _, rows in batches] == [[4, 0, 9], [7, 7]]
    assert all(crop.is_contiguous(memory_format=torch.channels_last) for batch, _ in batches for crop in batch)
    return [crop for batch, _ in batches for crop in batch]


@pytest.mark.parametrize("one_size", [True, False])
def test_the_same_crops_by_every_way(one_size: bool, tmp_path: Path) -> None:
    sizes = [(20, 24)] * 12 if one_size else [(20 + i, 40 - 2 * i) for i in range(12)]
    spec = folder_of_photos(tmp_path / "photos", sizes)
    expected = crops(spec, "off", 0, False)
    ways = [("off", 1, False), ("off", 0, True), ("off", 1, True)]
    ways += [("on", 0, False), ("on", 1, False), ("on", 0, True)] if one_size else []
    for way in ways:
        for a, b in zip(crops(spec, *way), expected, strict=True):
            assert torch.equal(a, b), way


def test_images_of_several_sizes_are_resident_at_a_given_size(tmp_path: Path) -> None:
    spec = folder_of_photos(tmp_path / "photos", [(20, 24), (21, 24)])
    images = open_images(spec)
    with pytest.raises(BadInput, match=r"--resident on: .*take --resident auto, or a size"):
        Source.of(images, "on", CPU)
    pixels = Source.of(images, "18", CPU).pixels
    assert pixels is not None
    assert torch.equal(pixels, images.resident(size=18))
    assert pixels.shape == (2, 3, 18, 18)


def test_a_resident_set_that_no_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = open_images(folder_of_photos(tmp_path / "photos", [(20, 24)] * 3))
    monkeypatch.setattr(sources, "_free", lambda device: 1000)
    with pytest.raises(BadInput, match=r"--resident 64: .* GiB of memory are needed, and 0.0 GiB are free; take a"):
        Source.of(images, "64", CPU)


def test_a_size_is_part_of_what_is_learnt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, out = folder_of_photos(tmp_path / "photos", [(20 + i, 24) for i in range(60)]), tmp_path / "run"
    metrics = run(out, "--data", spec, "--val", "shapes:n_val=20", "--resident", "16", "--max-steps", "2")
    assert metrics[-1]["final"]
    assert main(["resume", str(out), "--resident", "auto"]) == 2
    assert "the run began with --resident 16" in capsys.readouterr().err


def test_a_section_inside_another_is_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 1.0, 3.0, 6.0, 10.0, 20.0])
    monkeypatch.setattr("pretrain.clock.time.perf_counter", lambda: next(seconds))
    clock = Clock(CPU, {"data": 0.5})
    with clock.section("network"), clock.section("method"):  # 0 to 1 and 3 to 6; 1 to 3
        pass
    assert list(clock.waiting("data", [])) == []  # 10 to 20
    assert clock.total == {"data": 10.5, "augmentation": 0.0, "network": 4.0, "method": 2.0}
    assert clock.figures() == {"time_data": 10.0, "time_augmentation": 0.0, "time_network": 4.0, "time_method": 2.0}
    assert not any(clock.figures().values())


def test_a_run_says_where_its_time_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run(tmp_path / "run", "--max-steps", "3", "--knn-every", "0")
    names = {f"time_{name}" for name in SECTIONS}
    assert all(names <= line.keys() for line in metrics if "loss" in line or "final" in line)
    assert metrics[-1]["time_network"] >= sum(line["time_network"] for line in metrics if "loss" in line) * 0.99
    assert "waiting for data" in capsys.readouterr().out
    assert lines(tmp_path / "run")[-1]["time_augmentation"] > 0
