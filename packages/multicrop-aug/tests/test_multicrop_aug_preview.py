from pathlib import Path

import pytest
import torch
from multicrop_aug import byol, draw_preview, evaluation, odc, swav
from multicrop_aug._preview import _words
from PIL import Image

SMALL = {"small_size": 24, "n_small": 3}


def picture(height: int = 90, width: int = 120) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def test_a_sheet_is_written_and_is_the_same_again(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    sheet = draw_preview(swav(64, **SMALL), picture(), path, n=2, seed=3)
    with Image.open(path) as written:
        assert written.tobytes() == sheet.tobytes()
    pil = Image.fromarray(picture().permute(1, 2, 0).contiguous().numpy())
    assert draw_preview(swav(64, **SMALL), pil, n=2, seed=3).tobytes() == sheet.tobytes()
    assert draw_preview(swav(64, **SMALL), pil, n=2, seed=4).tobytes() != sheet.tobytes()


def test_each_draw_is_a_row() -> None:
    one, three = (draw_preview(odc(32, n_crops=2), picture(), n=n) for n in (1, 3))
    assert three.height > 2 * one.height
    # the first row is the same picture
    assert one.crop((0, 0, one.width, one.height - 20)).tobytes() == (
        three.crop((0, 0, one.width, one.height - 20)).tobytes()
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (300, 2)])
def test_extreme_pictures_have_a_sheet(size: tuple[int, int]) -> None:
    assert draw_preview(byol(16), picture(*size), n=1).width > 100


def test_evaluation_has_one_crop_without_words() -> None:
    plan = evaluation(16, resize=20).draw(torch.arange(1), 0, (90, 120), 0)
    assert _words(plan.groups[0], 0, plan.order) == []
    assert draw_preview(evaluation(16, resize=20), picture(), n=1).width > 100


def test_words_come_in_the_order_drawn() -> None:
    plan = odc(16).draw(torch.arange(1), 0, (90, 120), 0)
    group = plan.groups[0]
    words = [word.split()[0] for word in _words(group, 0, plan.order)]
    names = [("bri", "con", "sat", "hue")[k] for k in group.jitter_order[0, 0].tolist()]
    assert words == ["flip"] * int(group.flip[0, 0]) + ["turn", *names] + ["grey"] * int(group.grey[0, 0])


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="n must be"):
        draw_preview(odc(16), picture(), n=0)
