"""Whatever a recipe, a command line or a run folder's settings hold: exit code 0, or 2 and one line."""

from __future__ import annotations

import contextlib
import io
import os
import tomllib
from pathlib import Path
from typing import Any

import pretrain.cli
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pretrain.recipe_files import check_settings, dump, recipe_names
from pretrain.settings import METHODS

N_INPUTS = int(os.environ.get("CLUSTER_SSL_FUZZ", 60))  # of each test below
FUZZ = settings(
    max_examples=N_INPUTS,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

KEYS = sorted({name for model in METHODS.values() for name in model.model_fields})
SCALARS = (
    st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 10**400, -(10**30), 1e308, 5e-324])
    | st.floats()
    | st.booleans()
    | st.text(max_size=20)
    | st.sampled_from(
        ["", "auto", "shapes", "folder:\0", "1x32@0.3-1", "9x9@9..9-1", "15min", "٣", "x" * 5000, "\0\n\x1b"]
    )
    | st.dates()
    | st.datetimes()
)
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=5), v, max_size=3), max_leaves=6
)
NAMES = st.sampled_from(KEYS) | st.text(max_size=12)
METHOD = st.sampled_from(sorted(METHODS)) | VALUES


def as_toml(values: dict[str, Any]) -> str:
    return tomli_w.dumps(values)


@pytest.fixture(autouse=True)
def _nothing_is_trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pretrain.train.train", lambda settings, **how: None)
    monkeypatch.chdir(tmp_path)


def ends_well(*arguments: str) -> int:
    """Exit code 0, or 2 with one line; whatever else is raised is the finding."""
    said, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(said):
        try:
            code = pretrain.cli.main(arguments)
        except SystemExit as stop:  # --help
            code = stop.code
    assert code in (0, 2)
    line = error.getvalue()
    if code == 2 and arguments:
        assert line.startswith("pretrain: "), line
        assert line.endswith("\n"), line
        assert line[:-1].isprintable(), line
        assert len(line) < 2000, len(line)
    else:
        assert line == ""
    return code


@FUZZ
@given(method=METHOD, values=st.dictionaries(NAMES, VALUES, max_size=5))
def test_recipes_with_anything_in_them(method: Any, values: dict[str, Any], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(as_toml({**values, "method": method}), encoding="utf-8")
    if ends_well("--recipe", str(recipe)) == 0:  # what is accepted can be written down and read again
        built = check_settings(tomllib.loads(recipe.read_text(encoding="utf-8")), "recipe")
        assert check_settings(tomllib.loads(dump(built)), "dump") == built


def cut_and_bent(text: bytes) -> st.SearchStrategy[bytes]:
    place = st.integers(0, len(text))
    flips = st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)

    def apply(flips: list[tuple[int, int]], more: bytes, at: int, cut: int) -> bytes:
        content = bytearray(text[:cut])
        for where, value in flips:
            if where < len(content):
                content[where] = value
        return bytes(content[:at] + more + content[at:])

    return st.builds(apply, flips, st.binary(max_size=8), place, st.just(len(text)) | place)


CONFIG = dump(METHODS["swav"].model_validate({"method": "swav", "crops": ("2x32@0.3-1",)})).encode()


@FUZZ
@given(content=cut_and_bent(CONFIG) | st.binary(max_size=200))
def test_damaged_recipes_and_run_folders(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    assert ends_well("resume", str(tmp_path)) == ends_well("--recipe", str(tmp_path / "config.toml"))


WORDS = (
    st.sampled_from(["--" + key.replace("_", "-") for key in KEYS])
    | st.sampled_from(
        ["--no-report", "--no-sync-bn", "-h", "--", "-", "--=", "--help=1", "--epochs=3", "--data=", "@x"]
    )
    | st.sampled_from(["1", "-1", "0.5", "nan", "inf", "1e999", "9" * 5000, "shapes", "folder:\udc80", "15min", "on"])
    | st.sampled_from(recipe_names())
    | st.text(max_size=10)
    | st.text(st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF) | st.characters(), max_size=5)
)
COMMANDS = st.sampled_from([*METHODS, "resume", "recipes", "--recipe", "--recipe=odc_shapes"]) | WORDS


@FUZZ
@given(command=COMMANDS, words=st.lists(WORDS, max_size=6))
def test_command_lines(command: str, words: list[str]) -> None:
    ends_well(command, *words)


@FUZZ
@given(method=st.sampled_from(sorted(METHODS)), option=st.sampled_from(KEYS), value=SCALARS.map(str))
def test_a_value_of_an_option(method: str, option: str, value: str) -> None:
    """As `test_command_lines`, but an option that mostly exists, so that its value is looked at."""
    ends_well(method, f"--{option.replace('_', '-')}={value}")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"method = " + b"[" * 100_000,
        b"epochs = " + b"9" * 5000,
        b"method = ['odc']",
        b"method = 'odc'\nmethod = 'odc'",
        b"\xef\xbb\xbfmethod = 'odc'",
        b"method = 'odc'\nabout = 3\nlr = nan",
        b"method = 'odc'\nlr = inf",
        b"",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_recipes_that_were_found_to_break(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    assert ends_well("--recipe", str(tmp_path / "config.toml")) == 2
    assert ends_well("resume", str(tmp_path)) == 2


@pytest.mark.parametrize("name", ["\0.toml", "x" * 5000 + ".toml", "/.toml", "..", "", "é\udcff.toml"])
def test_names_that_no_recipe_and_no_run_has(name: str) -> None:
    assert ends_well("--recipe", name) == 2
    assert ends_well("resume", name) == 2
