"""Does any method collapse on people's images, with no setting given but the time? Eighty short runs.

    nox -s collapse                                              # all: four methods, four sets, five seeds
    python benchmarks/bench_collapse.py --methods swav --sets imagenette --seeds 0

Each run is `pretrain METHOD --data folder:SET --max-steps 300`, one thread, two at a time. Seeds 1 to 4 also change the
size of the batch (16, 32, 128, 256) and the number of images (300, 1,000, half, all), as people's sets differ.
A run has collapsed if it ended with exit code 3, or shows a sign of collapse in its last line; one that was mended is
counted apart. Finished runs are kept in --work and are not repeated. The table is Markdown; --record writes the runs as
JSON."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

METHODS = ("deepcluster", "odc", "deepcluster_v2", "swav")
BATCHES = (None, 16, 32, 128, 256)  # by seed; None = the recipe's
FRACTIONS = (1.0, 300, 1000, 0.5, 1.0)  # by seed: images of the set, or a part of it

Picture = tuple[str, str, Image.Image]  # split, class, image


def imagenette(shared: Path) -> Iterator[Picture]:
    """4,000 + 1,000 photographs of 160 px, ten classes."""
    with tarfile.open(shared / "imagenet_small" / "imagenette160.tar") as archive:
        for member in archive:
            if member.name.endswith(".JPEG"):
                split, label, _ = member.name.split("/")[-3:]
                file = archive.extractfile(member)
                assert file is not None
                yield split, label, Image.open(io.BytesIO(file.read())).convert("RGB")


def voc(shared: Path) -> Iterator[Picture]:
    """284 objects of 20 classes, cut out of photographs with a margin of a tenth; sides from 20 to 500 px."""
    with tarfile.open(shared / "voc" / "voc2012_subset.tar") as archive:
        files = {m.name: m for m in archive}
        root = next(name for name in files if "/Annotations/" in name).partition("Annotations/")[0]

        def read(name: str) -> bytes:
            file = archive.extractfile(files[root + name])
            assert file is not None
            return file.read()

        val = set(read("ImageSets/Main/val.txt").decode().split())
        for name in read("ImageSets/Main/trainval.txt").decode().split():
            photograph = Image.open(io.BytesIO(read(f"JPEGImages/{name}.jpg"))).convert("RGB")
            for element in ET.fromstring(read(f"Annotations/{name}.xml")).iter("object"):
                box = element.find("bndbox")
                assert box is not None
                left, top, right, bottom = (float(box.findtext(k) or 0) for k in ("xmin", "ymin", "xmax", "ymax"))
                margin = 0.1 * max(right - left, bottom - top)
                cut = photograph.crop(
                    (int(left - margin), int(top - margin), int(right + margin), int(bottom + margin))
                )
                yield "val" if name in val else "train", element.findtext("name") or "", cut


def cifar(shared: Path) -> Iterator[Picture]:
    """10,000 + 1,000 images of 32 px, ten classes."""
    from benchmarks.cifar10_npz import NAMES, read_sheets

    for split, name, n in (("train", "train_a", 10_000), ("val", "test1000", 1_000)):
        images, labels = read_sheets(shared / "cifar10" / f"cifar10_lossless_{name}.npz")
        for image, label in zip(images[:n], labels[:n], strict=True):
            yield split, NAMES[label], Image.fromarray(image)


def scenes(shared: Path) -> Iterator[Picture]:
    """3,000 + 1,000 drawn objects of 64 px, twelve classes."""
    from indexed_images import draw_shapes

    for split, n in (("train", 3_000), ("val", 1_000)):
        drawn = draw_shapes(seed=0, split=split, indices=range(n), size=64)
        for image, label in zip(drawn.images, drawn.labels, strict=True):
            yield split, f"{int(label):02d}", Image.fromarray(image.permute(1, 2, 0).numpy())


SETS: dict[str, Callable[[Path], Iterator[Picture]]] = {
    "imagenette": imagenette,
    "voc": voc,
    "cifar": cifar,
    "scenes": scenes,
}


def write(name: str, shared: Path, work: Path, kept: float) -> Path:
    """The folder of a set, written as JPEG files once; training images are every n-th, so that classes stay even."""
    folder = work / "sets" / f"{name}-{kept:g}"
    if (folder / "done").exists():
        return folder / "images"
    pictures = list(SETS[name](shared))
    n_train = sum(split == "train" for split, _, _ in pictures)
    wanted = round(n_train * kept) if kept <= 1 else min(n_train, int(kept))
    chosen = set(np.linspace(0, n_train - 1, wanted).round().astype(int).tolist())
    number = 0
    for i, (split, label, picture) in enumerate(pictures):
        if split == "train":
            number += 1
            if number - 1 not in chosen:
                continue
        path = folder / "images" / split / label / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)
    (folder / "done").touch()
    return folder / "images"


def run(method: str, name: str, seed: int, steps: int, shared: Path, work: Path, more: list[str]) -> dict[str, Any]:
    """One run, or its record if it is there."""
    out = work / "runs" / f"{name}-{method}-{seed}"
    record = out.with_suffix(".json")
    data = write(name, shared, work, FRACTIONS[seed % len(FRACTIONS)])
    batch = BATCHES[seed % len(BATCHES)]
    options = [
        *(method, "--data", f"folder:{data}", "--seed", str(seed), "--max-steps", str(steps), "--device", "cpu"),
        *("--knn-every", "0", "--no-report", "--workers", "0", "--quiet", "--out", str(out)),
        *(() if batch is None else ("--batch", str(batch))),
        *more,
    ]
    if record.exists() and (found := dict(json.loads(record.read_text())))["options"] == options[3:]:
        return found
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    done = subprocess.run(
        [sys.executable, str(ROOT / "apps" / "pretrain"), *options], env=environment, capture_output=True, text=True
    )
    found = {"set": name, "method": method, "seed": seed, "options": options[3:], "code": done.returncode}
    found |= {"said": done.stderr.strip().splitlines()[-1:], "seconds": round(time.monotonic() - began)}
    found |= _figures(out)
    if done.returncode not in (0, 3):  # interrupted, or no run at all
        sys.exit(f"{name}, {method}, seed {seed}: exit code {done.returncode}: {done.stderr.strip()}")
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(found))
    return found


def _figures(out: Path) -> dict[str, Any]:
    """What the run wrote: the last loss over ln K, RankMe, entropy of the codes over ln K, scores, mends."""
    if not (out / "metrics.jsonl").exists():
        return {}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    scores = [line["knn_top1"] for line in lines if "knn_top1" in line]
    if not steps:
        return {}
    log_k = math.log(_k(out))
    last = steps[-1]
    figures = {"step": last["step"], "rankme": last["rankme"], "loss_of_ln_k": last["loss"] / log_k}
    if "code_entropy" in last:
        figures["entropy_of_ln_k"] = last["code_entropy"] / log_k
    if "effective_clusters" in last:
        figures["effective_clusters"] = last["effective_clusters"]
    return {
        **figures,
        "knn": [scores[0], scores[-1]] if scores else None,
        "mends": [line["mended"] for line in lines if "mended" in line],
    }


def _k(out: Path) -> int:
    """The number of clusters of a run: rows of its prototypes, head or centroids."""
    import torch

    method = torch.load(out / "checkpoint.pt", map_location="cpu", weights_only=True)["method"]
    names = ("prototypes.weight", "head.weight", "centroids")
    return next(int(method[name].shape[-2]) for name in names if name in method)


def has_collapsed(found: dict[str, Any]) -> bool:
    """Whether the run failed, or its last line shows a sign of collapse."""
    return bool(
        found["code"] != 0
        or found["rankme"] < 1.2
        or found.get("effective_clusters", math.inf) < 1.05
        or found.get("entropy_of_ln_k", 0) >= 0.99
        or (found["method"] == "swav" and found["loss_of_ln_k"] >= 0.99)
    )


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a row a set and method."""
    rows = ["| set | method | runs | collapsed | mended | RankMe | kNN before | after |", "|" + " --- |" * 8]
    for name in dict.fromkeys(each["set"] for each in found):
        for method in dict.fromkeys(each["method"] for each in found):
            runs = [each for each in found if (each["set"], each["method"]) == (name, method)]
            if not runs:
                continue
            ranks = [each["rankme"] for each in runs if "rankme" in each]
            scores = np.array([each["knn"] for each in runs if each.get("knn")]).reshape(-1, 2)
            shown = [f"{scores[:, i].min():.1f} to {scores[:, i].max():.1f}" if len(scores) else "" for i in (0, 1)]
            rows.append(
                f"| {name} | {method} | {len(runs)} | {sum(map(has_collapsed, runs))} "
                f"| {sum(bool(each.get('mends')) for each in runs)} "
                f"| {min(ranks, default=math.nan):.0f} to {max(ranks, default=math.nan):.0f} "
                f"| {shown[0]} | {shown[1]} |"
            )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=range(5))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument(
        "--data", type=Path, default=os.environ.get("CLUSTER_SSL_DATA", ROOT.parent / "shared" / "data")
    )
    parser.add_argument("--work", type=Path, default=ROOT / ".data" / "collapse", help="sets and runs")
    parser.add_argument("--record", type=Path, help="JSON file of all runs")
    given, more = parser.parse_known_args()  # the rest goes to pretrain
    jobs = [(m, s, seed) for seed in given.seeds for s in given.sets for m in given.methods]
    for name in given.sets:
        for seed in given.seeds:
            write(name, given.data, given.work, FRACTIONS[seed % len(FRACTIONS)])
    with ThreadPoolExecutor(given.jobs) as pool:
        waiting = [pool.submit(run, m, s, seed, given.steps, given.data, given.work, more) for m, s, seed in jobs]
        found = []
        for each in waiting:
            found.append(each.result())
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(table(found))
    print(f"\n{sum(map(has_collapsed, found))} of {len(found)} runs collapsed")
    if given.record:
        given.record.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
