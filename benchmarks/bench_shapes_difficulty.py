"""How hard the drawn world `shapes` is: kNN on pixels and on untrained networks, and a small network trained on labels.

    uv run python benchmarks/bench_shapes_difficulty.py [--epochs 8] [--spec shapes]

A useful world lets no untrained feature solve it (kNN below 50 %) and lets a supervised network solve it (above 90 %).
"""

import argparse
import itertools
import time

import torch
import torch.nn.functional as F
from indexed_images import IndexedImages, open_images
from torch import Tensor, nn
from torchvision.models import resnet18


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spec", default="shapes")
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()

    start = time.perf_counter()
    train, train_labels = labelled(open_images(args.spec))
    val, val_labels = labelled(open_images(args.spec, "val"))
    print(f"drawn {len(train)} + {len(val)} images in {time.perf_counter() - start:.1f} s, torch {torch.__version__}")
    chance = val_labels.bincount().max().item() / len(val_labels)
    print(f"most frequent class           {chance:6.1%}")

    centred = [x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (train, val)]
    print(f"kNN, centred pixels, cosine   {knn(*centred, train_labels, val_labels, cosine=True):6.1%}")
    flat = [x.flatten(1) for x in (train, val)]
    print(f"kNN, pixels, euclidean        {knn(*flat, train_labels, val_labels, cosine=False):6.1%}")

    start = time.perf_counter()
    accuracy = supervised(train, train_labels, val, val_labels, args.epochs)
    print(
        f"supervised small network      {accuracy:6.1%}  ({args.epochs} epochs, {time.perf_counter() - start:.0f} s)",
        flush=True,
    )

    for stem in ("imagenet", "cifar"):
        features = [random_features(x, stem) for x in (train, val)]
        print(
            f"kNN, untrained ResNet-18, {stem:9}{knn(*features, train_labels, val_labels, cosine=True):5.1%}",
            flush=True,
        )


def labelled(images: IndexedImages) -> tuple[Tensor, Tensor]:
    if images.labels is None:
        raise SystemExit(f"{images.spec} has no labels")
    return images.resident().float() / 127.5 - 1, images.labels


def knn(bank: Tensor, queries: Tensor, bank_labels: Tensor, labels: Tensor, *, cosine: bool, k: int = 20) -> float:
    if cosine:
        bank, queries = F.normalize(bank), F.normalize(queries)
    hits = 0
    for query, label in zip(queries.split(500), labels.split(500), strict=True):
        nearest = torch.cdist(query, bank).topk(k, largest=False).indices
        hits += int((bank_labels[nearest].mode(1).values == label).sum())
    return hits / len(labels)


@torch.no_grad()
def random_features(images: Tensor, stem: str) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = resnet18()
        if stem == "cifar":
            network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    network.fc = nn.Identity()
    network.train()  # batch statistics: an untrained network has no others
    return torch.cat([network(batch) for batch in images.split(500)])


def supervised(train: Tensor, train_labels: Tensor, val: Tensor, val_labels: Tensor, epochs: int) -> float:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        widths = (3, 32, 64, 128, 128)
        blocks = [
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
            for a, b in itertools.pairwise(widths)
        ]
        network = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 12))
    generator = torch.Generator().manual_seed(0)
    steps = epochs * (len(train) // 128)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(train), generator=generator).split(128)[: len(train) // 128]:
            images = train[batch].flip(3) if torch.rand((), generator=generator) < 0.5 else train[batch]
            loss = F.cross_entropy(network(images), train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        return (network(val).argmax(1) == val_labels).float().mean().item()


if __name__ == "__main__":
    main()
