"""Settings models: their options, help, fixed fields and error messages."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, PositiveInt, ValidationError, model_validator
from steady_runs import BadInput, Settings, checked, nearest, option_name, parse_options


class Common(Settings):
    """what every command has"""

    epochs: PositiveInt = 10
    """passes over the images"""
    lr: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """learning rate, 50 % of the usual one"""
    max_steps: int | None = None
    """stop early"""
    quiet: bool = False
    """print less"""


class Train(Common):
    """training"""

    command: Literal["train"] = "train"
    model: Literal["small", "large"] = "small"
    """size of the network"""
    sizes: tuple[int, ...] = (224, 96)
    """crop sizes"""
    milestones: tuple[int, ...] | None = None
    """steps at which the rate falls"""
    name: str = ""
    """of the run"""

    @model_validator(mode="after")
    def _check(self) -> Train:
        if self.model == "large" and self.epochs > 100:
            raise ValueError("--model large trains 100 --epochs at most")
        return self


def parse(*arguments: str, **more: Any) -> dict[str, Any]:
    return parse_options(arguments, Train, program="demo train", **more)


def help_of(capsys: pytest.CaptureFixture[str], **more: Any) -> str:
    with pytest.raises(SystemExit) as end:
        parse("--help", **more)
    assert end.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_only_given_options_are_returned() -> None:
    assert parse() == {}
    assert parse("--epochs", "3", "--max-steps=5") == {"epochs": "3", "max_steps": "5"}
    assert parse("--quiet") == {"quiet": True}
    assert parse("--no-quiet") == {"quiet": False}


def test_values_get_the_types_of_their_fields() -> None:
    given = parse("--epochs", "3", "--lr", "0.1", "--max-steps", "7", "--sizes", "32", "16", "--milestones", "1")
    options = checked(Train, given)
    assert (options.epochs, options.lr, options.max_steps) == (3, 0.1, 7)
    assert (options.sizes, options.milestones) == ((32, 16), (1,))
    assert checked(Train, {}) == Train()


def test_settings_are_frozen() -> None:
    options = Train()
    with pytest.raises(ValidationError):
        options.epochs = 3  # type: ignore[misc]
    assert options.model_copy(update={"epochs": 3}).epochs == 3
    assert options.epochs == 10


def test_fixed_fields_are_settings_but_no_options() -> None:
    with pytest.raises(BadInput, match="unknown option '--command'"):
        parse("--command", "train")
    assert checked(Train, {"command": "train"}).model_dump()["command"] == "train"
    with pytest.raises(BadInput, match="command should be 'train', got 'other'"):
        checked(Train, {"command": "other"}, source="settings.json")


def test_help_has_sections_texts_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    said = help_of(capsys, description="Trains a network.")
    assert said.startswith("usage: demo train [options] Trains a network.")
    assert said.index("what every command has:") < said.index("--epochs N") < said.index("training:")
    assert "--epochs N passes over the images (default: 10)" in said
    assert "--lr X learning rate, 50 % of the usual one (default: 0.5)" in said
    assert "--max-steps N stop early --" in said  # no default of None
    assert "--model {small,large} size of the network (default: small)" in said
    assert "--sizes N [N ...] crop sizes (default: 224 96)" in said
    assert "--name TEXT of the run" in said
    assert "--command" not in said


def test_help_shows_other_defaults_and_allowed_options_only(capsys: pytest.CaptureFixture[str]) -> None:
    said = help_of(capsys, defaults=Train(epochs=77), allowed=("epochs", "name"))
    assert "(default: 77)" in said
    assert "--lr" not in said
    with pytest.raises(BadInput, match="unknown option '--lr' here"):
        parse("--lr", "0.1", allowed=("epochs",))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epoch", "3"], "unknown option '--epoch', did you mean '--epochs'?; --help lists them"),
        (["--epoch=3"], "unknown option '--epoch', did you mean '--epochs'?; --help lists them"),
        (["xyz"], "unknown argument 'xyz'; --help lists them"),
        (["--epochs"], "argument --epochs: expected one argument; --help explains"),
        (["--epochs", "0"], "--epochs should be greater than 0, got '0'"),
        (["--epochs", "many"], "--epochs should be a valid integer, unable to parse string as an integer, got 'many'"),
        (["--lr", "nan"], "--lr should be a finite number, got 'nan'"),
        (["--model", "huge"], "--model should be 'small' or 'large', got 'huge'"),
        (["--model", "large", "--epochs", "101"], "--model large trains 100 --epochs at most"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: list[str], said: str) -> None:
    with pytest.raises(BadInput) as error:
        checked(Train, parse(*arguments))
    assert str(error.value) == said


def test_a_wrong_value_in_a_file_names_the_file_and_the_key() -> None:
    with pytest.raises(BadInput, match=r"^run/settings.json: max_steps should be a valid integer"):
        checked(Train, {"max_steps": "x"}, source="run/settings.json")
    with pytest.raises(BadInput, match=r"^a.toml: unknown key 'epoch', did you mean 'epochs'\?$"):
        checked(Train, {"epoch": 3}, source="a.toml")


def test_names() -> None:
    assert option_name("max_steps") == "--max-steps"
    assert nearest("epoch", ["epochs", "lr"]) == ", did you mean 'epochs'?"
    assert nearest("zzz", ["epochs", "lr"]) == ""
