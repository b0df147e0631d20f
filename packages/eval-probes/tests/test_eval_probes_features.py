"""extract_features and rankme."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from eval_probes import Features, TapFeatures, extract_features, features_key, pool_taps, rankme
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.9), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def batches(labelled: bool = True) -> list[tuple[Tensor, Tensor | None]]:
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 3, 8, 8, generator=g), torch.arange(n) if labelled else None) for n in (4, 4, 1)]


def test_rows_are_the_eval_mode_output_in_order() -> None:
    model, seen = network(), []
    x, labels = extract_features(model, batches(), progress=seen.append)
    with torch.no_grad():
        expected = torch.cat([model.eval()(images) for images, _ in batches()])
    assert torch.equal(x, expected)
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    assert seen == [4, 8, 9]


def test_training_flags_come_back_even_after_an_error() -> None:
    model = network().train()
    model[1].eval()  # a frozen part stays frozen
    flags = [module.training for module in model.modules()]
    before = model[1].running_mean.clone()
    extract_features(model, batches())
    assert [module.training for module in model.modules()] == flags
    with pytest.raises(ValueError, match="pool it"):
        extract_features(nn.Sequential(model, nn.Unflatten(1, (2, 3))), batches())
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(before, model[1].running_mean)


def test_a_probe_can_train_on_the_result() -> None:
    x, labels = extract_features(network(), batches()[:1])
    assert not x.requires_grad
    assert labels is not None
    nn.functional.cross_entropy(nn.Linear(6, 4)(x), labels).backward()  # would raise for inference tensors


def test_precision_is_what_is_asked_for() -> None:
    model, plain = network(), batches()
    exact = extract_features(model, plain).x
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extract_features(model, plain).x, exact)
    rough = extract_features(model, plain, precision="bf16").x
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)


def test_errors() -> None:
    model = network()
    assert extract_features(model, batches(labelled=False)).labels is None
    with pytest.raises(ValueError, match="empty"):
        extract_features(model, [])
    with pytest.raises(ValueError, match="all or to none"):
        extract_features(model, [batches()[0], batches(labelled=False)[1]])
    with pytest.raises(ValueError, match="all or to none"):
        extract_features(model, [batches(labelled=False)[0], batches()[1]])
    with pytest.raises(ValueError, match="labels must be"):
        extract_features(model, [(torch.zeros(2, 3, 8, 8), torch.zeros(3))])
    with pytest.raises(ValueError, match="precision"):
        extract_features(model, batches(), precision="16")  # type: ignore[arg-type]


def test_flags_come_back_when_the_loop_around_the_model_fails() -> None:
    model = network().train()
    with pytest.raises(
        ValueError, match="all or to none"
    ) as error:  # the traceback keeps frames, and so the generator, alive
        extract_features(model, [batches()[0], batches(labelled=False)[1]])
    assert model.training
    assert error is not None


class Staged(nn.Module):
    """A network with two stages that counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.top, self.n_passes = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), 0

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        self.n_passes += 1
        stem = self.stem(images)
        return {"feature1": stem, "feature5": self.top(stem)}


TAPS = ("avgpool", "feature1", "feature5")


def test_taps_come_from_one_pass() -> None:
    model = Staged()
    found = extract_features(model, batches(), taps=TAPS, pool="adaptive")
    assert isinstance(found, TapFeatures)
    assert model.n_passes == 3
    images = torch.cat([images for images, _ in batches()])
    with torch.no_grad():
        expected = pool_taps(model.stages(images), TAPS, "adaptive")
    assert list(found.x) == list(TAPS)
    torch.testing.assert_close(found.x, expected)
    assert found.labels is not None
    assert len(found.labels) == 9
    with pytest.raises(ValueError, match="stages"):
        extract_features(network(), batches(), taps=TAPS)
    with pytest.raises(ValueError, match="pool must be"):
        extract_features(model, batches(), taps=TAPS, pool="max")  # type: ignore[arg-type]


def test_several_labels_an_image() -> None:
    found = extract_features(network(), [(images, labels[:, None] % 2) for images, labels in batches()])  # type: ignore[index]
    assert found.labels is not None
    assert found.labels.shape == (9, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_cache_hit_calls_nothing(tmp_path: Path, dtype: torch.dtype) -> None:
    model = Staged()
    fresh = extract_features(model, batches(), taps=TAPS, pool="adaptive", dtype=dtype)
    first = extract_features(model, batches(), taps=TAPS, pool="adaptive", dtype=dtype, cache=tmp_path / "key")
    n_passes = model.n_passes

    def never(start: int) -> Iterator[tuple[Tensor, Tensor]]:
        raise AssertionError("batches was called")

    again = extract_features(model, never, taps=TAPS, pool="adaptive", dtype=dtype, cache=tmp_path / "key")
    assert model.n_passes == n_passes
    for found in (first, again):
        assert {x.dtype for x in found.x.values()} == {dtype}
        assert torch.equal(found.labels, fresh.labels)  # type: ignore[arg-type]
        assert all(torch.equal(found.x[tap], fresh.x[tap]) for tap in TAPS)
    again.x["avgpool"][:] = 0  # copy-on-write: the file does not change
    assert np.load(tmp_path / "key" / "avgpool.npy").any()
    with pytest.raises(ValueError, match="use another folder"):
        extract_features(model, batches(), taps=TAPS[:2], pool="adaptive", dtype=dtype, cache=tmp_path / "key")


def then_stop(n_batches: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    yield from batches()[:n_batches]
    raise KeyboardInterrupt


@pytest.mark.parametrize("n_batches", [0, 1, 2])
@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("from_row", [False, True])
def test_an_interrupted_extraction_ends_in_the_same_files(
    tmp_path: Path, n_batches: int, killed: bool, from_row: bool
) -> None:
    model, whole, part = network(), tmp_path / "whole", tmp_path / "part"
    extract_features(model, batches(), cache=whole)
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, then_stop(n_batches), cache=part)
    if killed and n_batches:  # rows that were written after the last record
        with (part / "features.npy").open("ab") as file:
            file.write(bytes(5001))
    starts: list[int] = []
    seen: list[int] = []

    def rest(start: int) -> list[tuple[Tensor, Tensor | None]]:
        starts.append(start)
        return batches()[n_batches:]

    found = extract_features(model, rest if from_row else batches(), cache=part, progress=seen.append)
    assert starts == ([4 * n_batches] if from_row else [])
    assert seen == [4, 8, 9][n_batches:]  # no row is extracted twice
    assert isinstance(found, Features)
    for name in ("features.npy", "labels.npy", "features.json"):
        assert (whole / name).read_bytes() == (part / name).read_bytes()


def test_resume_inside_a_batch_of_another_size(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, then_stop(1), cache=tmp_path)
    images, labels = (torch.cat(column) for column in zip(*batches(), strict=True))  # type: ignore[arg-type]
    found = extract_features(model, zip(images.split(6), labels.split(6), strict=True), cache=tmp_path)
    assert torch.equal(found.labels, labels)  # type: ignore[arg-type]
    torch.testing.assert_close(found.x, extract_features(model, batches()).x)


def test_a_broken_cache_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        extract_features(network(), then_stop(1), cache=tmp_path)
    (tmp_path / "features.npy").write_bytes(b"short")
    with pytest.raises(ValueError, match="shorter than its 4 rows"):
        extract_features(network(), batches(), cache=tmp_path)
    assert not json.loads((tmp_path / "features.json").read_text())["complete"]
    with pytest.raises(ValueError, match="all or to none"):
        extract_features(network(), batches(labelled=False), cache=tmp_path)
    with pytest.raises(ValueError, match="storage_device"):
        extract_features(network(), batches(), cache=tmp_path, storage_device="meta")


def test_float16_overflow_is_named() -> None:
    images = torch.zeros(3, 3, 8, 8)
    images[2] = 7e4
    with pytest.raises(ValueError, match="row 2 of features exceeds"):
        extract_features(nn.Flatten(), [(images, None)], dtype=torch.float16)
    with pytest.raises(ValueError, match="dtype must be"):
        extract_features(nn.Flatten(), [(images, None)], dtype=torch.float64)


def test_features_key_depends_on_all_and_only_what_it_should() -> None:
    state = network().state_dict()
    key = features_key(state, "train", "resize 256")
    assert key == features_key(dict(reversed(state.items())), "train", "resize 256")
    assert len(key) == 64
    other = {name: x.clone() for name, x in state.items()}
    other["0.bias"][0] += 1e-6
    keys = {key, features_key(other, "train", "resize 256"), features_key(state, "trainresize 256")}
    keys |= {features_key(state, "val", "resize 256"), features_key(state, "train"), features_key({}, "train")}
    keys |= {features_key({name: x.bfloat16() for name, x in state.items()}, "train", "resize 256")}
    assert len(keys) == 7


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 40), d=st.integers(1, 20), seed=st.integers(0, 1000))
def test_rankme_equals_the_singular_values_entropy(n: int, d: int, seed: int) -> None:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    p = np.linalg.svd(x.double().numpy(), compute_uv=False)
    p = p / p.sum()
    assert rankme(x) == pytest.approx(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()), rel=1e-5)


def test_rankme_limits() -> None:
    assert rankme(torch.eye(9, 30)) == pytest.approx(9)
    assert rankme(torch.ones(500, 64)) == pytest.approx(1, abs=1e-4)
    assert rankme(torch.zeros(5, 3)) == 0
    with pytest.raises(ValueError, match="NaN"):
        rankme(torch.full((4, 2), torch.nan))
    with pytest.raises(ValueError, match="matrix"):
        rankme(torch.zeros(3))
