"""MultiHeadLinearProbe against branches trained one by one with torch in float64."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from eval_probes import IMAGENET_MHEAD, INAT18, LARS, PLACES205, LinearProtocol, MultiHeadLinearProbe
from eval_probes._linear_train import epoch_batches
from eval_probes._pools import SIDES
from torch import Tensor, nn

CHANNELS = {"feature1": 2, "feature4": 3, "feature5": 4, "avgpool": 5}
SHORT = replace(IMAGENET_MHEAD, epochs=4, milestones=(2, 3), batch=16)


def taps(n: int, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Make pooled maps whose channel means depend on the class, far from zero mean and unit variance."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    x = {}
    for tap, channels in CHANNELS.items():
        centres = 5 + 3 * torch.randn(3, channels, generator=torch.Generator().manual_seed(channels))
        x[tap] = (centres[y][..., None] + torch.randn(n, channels, SIDES[tap] ** 2, generator=g)).flatten(1)
    return x, y


def test_presets_are_the_published_protocols() -> None:
    assert LinearProtocol(90, 0.01, 256, 0.9, 1e-4, True, "sgd", (30, 60, 90), 0.1) == IMAGENET_MHEAD
    assert LinearProtocol(28, 0.01, 256, 0.9, 1e-4, True, "sgd", (7, 14, 21), 0.1) == PLACES205
    assert LinearProtocol(84, 0.01, 256, 0.9, 1e-4, True, "sgd", (24, 48, 72), 0.1) == INAT18
    assert IMAGENET_MHEAD.lr_factor(89) == pytest.approx(0.01)  # the milestone at 90 has no effect


def test_equal_to_the_naive_loop() -> None:
    """Each tap alone: batch statistics over rows and positions, running statistics with momentum 0.1, Nesterov SGD."""
    (x, y), (xt, yt) = taps(50), taps(30, 1)
    probe = MultiHeadLinearProbe(SHORT, seed=2).fit(x, y, test=(xt, yt))
    start = MultiHeadLinearProbe(replace(SHORT, epochs=1, lr=0.0), seed=2).fit(x, y)._fitted()
    scores = probe.evaluate(xt, yt)
    for tap, channels in CHANNELS.items():
        head = probe._fitted()[tap]
        w = start[tap][3].weight.detach().double().requires_grad_()
        b = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        mean, var = torch.zeros(channels).double(), torch.ones(channels).double()
        sgd = torch.optim.SGD([w, b], 1.0, 0.9, weight_decay=1e-4, nesterov=True)
        for epoch, lr in enumerate((0.01, 0.01, 0.001, 0.0001)):
            sgd.param_groups[0]["lr"] = lr
            for rows in epoch_batches(50, 16, 2, epoch):
                z = x[tap][rows].double().view(len(rows), channels, -1)
                m, v = z.mean((0, 2)), z.var((0, 2), correction=0)
                mean, var = 0.9 * mean + 0.1 * m, 0.9 * var + 0.1 * z.var((0, 2))
                normed = (z - m[:, None]) / (v[:, None] + 1e-5).sqrt()
                sgd.zero_grad()
                F.cross_entropy(normed.flatten(1) @ w.T + b, y[rows]).backward()
                sgd.step()
        torch.testing.assert_close(head[1].running_mean.double(), mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(head[1].running_var.double(), var, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(head[3].weight.double(), w, rtol=1e-4, atol=1e-6)
        normed = (xt[tap].double().view(30, channels, -1) - mean[:, None]) / (var[:, None] + 1e-5).sqrt()
        expected = (normed.flatten(1) @ w.T + b).argmax(1)
        assert torch.equal(probe.predict(xt, tap=tap), expected)
        assert scores[tap] == {"top1": pytest.approx(float((expected == yt).double().mean())), "top5": 1.0}
    assert list(head.state_dict()) == ["1.running_mean", "1.running_var", "1.num_batches_tracked", "3.weight", "3.bias"]
    assert probe.last_ == scores
    assert probe.score(xt, yt) == scores["avgpool"]["top1"]
    assert torch.equal(probe.predict(xt), probe.predict(xt, tap="avgpool"))
    assert max(scores[tap]["top1"] for tap in scores) > 0.9


def test_branches_share_nothing_and_start_small() -> None:
    x, y = taps(40)
    together = MultiHeadLinearProbe(SHORT).fit(x, y)
    for tap in CHANNELS:
        alone = MultiHeadLinearProbe(SHORT).fit({tap: x[tap]}, y)
        assert torch.equal(alone._fitted()[tap][3].weight, together._fitted()[tap][3].weight)
    start = MultiHeadLinearProbe(replace(SHORT, epochs=1, lr=0.0)).fit(x, y)._fitted()
    assert float(start["feature1"][3].weight.detach().std()) == pytest.approx(0.01, rel=0.1)  # of 864 numbers
    assert not start["feature1"][3].bias.any()


def test_fit_batches_is_fit_on_the_same_batches() -> None:
    x, y = taps(40)
    names = torch.tensor([-3, 40, 7])[y]

    def batches(epoch: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for rows in epoch_batches(40, 16, 0, epoch):
            yield {tap: a[rows] for tap, a in x.items()}, names[rows]

    streamed = MultiHeadLinearProbe(SHORT, classes=[40, 7, -3]).fit_batches(batches)
    fitted = MultiHeadLinearProbe(SHORT).fit(x, names)
    for tap in CHANNELS:
        assert torch.equal(streamed._fitted()[tap][3].weight, fitted._fitted()[tap][3].weight)
        assert set(fitted.predict(x, tap=tap).tolist()) <= {-3, 7, 40}


def test_resume_from_a_saved_state_is_no_interruption(tmp_path: Path) -> None:
    (x, y), test = taps(40), taps(20, 1)
    whole = MultiHeadLinearProbe(SHORT).fit(x, y, test=test)

    def stop(state: dict[str, object]) -> None:
        torch.save(state, tmp_path / "state.pt")
        if state["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MultiHeadLinearProbe(SHORT).fit(x, y, test=test, after_epoch=stop)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = MultiHeadLinearProbe(SHORT).fit(x, y, test=test, resume=state)
    assert (resumed.last_, resumed.best_on_test_) == (whole.last_, whole.best_on_test_)
    for tap, head in whole._fitted().items():
        assert all(torch.equal(a, head.state_dict()[name]) for name, a in resumed._fitted()[tap].state_dict().items())
    with pytest.raises(ValueError, match="other classes"):
        MultiHeadLinearProbe(SHORT, classes=9).fit(x, y, resume=state)


def test_no_global_generator_and_no_autocast() -> None:
    x, y = taps(20)
    expected = MultiHeadLinearProbe(SHORT).fit(x, y)._fitted()
    before = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        found = MultiHeadLinearProbe(SHORT).fit({tap: a.double() for tap, a in x.items()}, y)._fitted()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found["feature4"][3].weight, expected["feature4"][3].weight)
    assert isinstance(found["feature4"], nn.Sequential)


def test_errors() -> None:
    x, y = taps(20)
    probe = MultiHeadLinearProbe(SHORT)
    with pytest.raises(ValueError, match="call fit"):
        probe.predict(x)
    with pytest.raises(ValueError, match="sgd"):
        MultiHeadLinearProbe(LARS).fit(x, y)
    with pytest.raises(ValueError, match="no taps"):
        probe.fit({}, y)
    with pytest.raises(ValueError, match="unknown tap 'layer4'"):
        probe.fit({"layer4": x["avgpool"]}, y)
    with pytest.raises(ValueError, match="feature5 has 15 dimensions, not a multiple of 4"):
        probe.fit({"feature5": x["feature5"][:, :15]}, y)
    with pytest.raises(ValueError, match="pass test="):
        _ = probe.fit(x, y).last_
    with pytest.raises(ValueError, match="must have the taps"):
        probe.evaluate({"avgpool": x["avgpool"]}, y)
    with pytest.raises(ValueError, match="tap must be one of"):
        probe.predict(x, tap="feature2")
    with pytest.raises(ValueError, match="classes must be given"):
        MultiHeadLinearProbe().fit_batches(lambda epoch: [(x, y)])
    with pytest.raises(ValueError, match="nothing to train on"):
        MultiHeadLinearProbe(classes=3).fit_batches(lambda epoch: [])
    with pytest.raises(ValueError, match="test has no labels"):
        probe.fit(x, y, test=(x, None))
    x["feature4"][7] = torch.inf
    with pytest.raises(ValueError, match=r"feature4 has 1 rows with NaN or infinity, the first at \[7\]"):
        probe.fit(x, y)
