"""The menu of checks: `uv run nox -l` lists it, `uv run nox -s lint` runs one.

Daily work needs none of this: `uv run pytest packages/sinkhorn`. Sessions are for what needs a fresh environment
or belongs before a release.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("packages/*/pyproject.toml"))
APPS = sorted(path.parent.name for path in ROOT.glob("apps/*/pyproject.toml"))
SOURCES = [f"packages/{p}/src" for p in PACKAGES] + [f"apps/{a}/src" for a in APPS]
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
LIGHTLY = "lightly==1.6.0"  # rivals of the race
SOLO_LEARN = ("https://github.com/vturrisi/solo-learn", "9187ea39c2c3f43c455ab06664d2b019a9802954")

nox.options.default_venv_backend = "uv"
nox.options.error_on_external_run = True
nox.options.sessions = ["lint", "types", "test", "imports"]


def _sync(session: nox.Session, *arguments: str) -> None:
    """The workspace's own environment, or a part of it, in the session's folder."""
    environment = {"UV_PROJECT_ENVIRONMENT": session.virtualenv.location}
    session.run_install("uv", "sync", "--quiet", *arguments, env=environment, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: format and rules; names of tests."""
    _sync(session, "--only-group", "dev")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("python", "tests/check_test_names.py")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, over every package and app, and over this file."""
    _sync(session)
    session.run("mypy", "noxfile.py")
    for source in SOURCES:  # one at a time: each is a program of its own
        session.run("mypy", source)


@nox.session
def test(session: nox.Session) -> None:
    """The daily suite."""
    _sync(session)
    session.run("pytest", *session.posargs)


@nox.session
def imports(session: nox.Session) -> None:
    """Packages import no sibling, apps no other app, and each declares what it imports."""
    _check_contracts(session)
    _sync(session)
    session.run("lint-imports")
    for folder in [*(f"packages/{p}" for p in PACKAGES), *(f"apps/{a}" for a in APPS)]:
        with session.chdir(folder):
            session.run("deptry", "src")


def _check_contracts(session: nox.Session) -> None:
    """import-linter has no wildcard for top-level packages, so its lists must name every package and app."""
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    packages, apps = {name.replace("-", "_") for name in PACKAGES}, {name.replace("-", "_") for name in APPS}
    independent = [set(one["modules"]) for one in linter["contracts"] if one["type"] == "independence"]
    forbidden = [
        (set(one["source_modules"]), set(one["forbidden_modules"]))
        for one in linter["contracts"]
        if one["type"] == "forbidden"
    ]
    complete = {
        "root_packages": set(linter["root_packages"]) == packages | apps,
        "independence of packages": packages in independent,
        "independence of apps": apps in independent,
        "packages import no app": (packages, apps) in forbidden,
    }
    if wrong := [name for name, right in complete.items() if not right]:
        session.error(f"[tool.importlinter] does not name every package and app: {', '.join(wrong)}")


def _alone(package: str) -> None:
    @nox.session(name=f"alone-{package}", tags=["alone"], default=False)
    def alone(session: nox.Session) -> None:
        _sync(session, "--package", package, "--group", "test", "--no-default-groups")
        session.run("pytest", f"packages/{package}", *session.posargs)

    alone.__doc__ = f"{package} with nothing but what it declares: its tests in a fresh environment."


for _package in PACKAGES:
    _alone(_package)


def _minimums(package: str) -> None:
    @nox.session(name=f"minimums-{package}", python=PYTHONS[0], tags=["minimums"], default=False)
    def minimums(session: nox.Session) -> None:
        # `--no-config` leaves out the exact versions that the workspace's pyproject.toml pins
        folder = f"packages/{package}"
        oldest = ["uv", "pip", "install", "--quiet", "--no-config", "--resolution", "lowest-direct"]
        oldest += ["--reinstall-package", package]  # uv keeps the wheel of a folder, whatever changed in it
        session.run_install(*oldest, folder, "--group", f"{folder}/pyproject.toml:test", external=True)
        # old versions of other projects warn under newer ones: only the results count here
        session.run("pytest", folder, "-n1", "-Wdefault", *session.posargs)

    minimums.__doc__ = f"{package} with the oldest versions that its pyproject.toml allows, such as torch 2.6."


for _package in PACKAGES:  # not in CI: all of them take about a quarter of an hour on two free cores, with downloads
    _minimums(_package)


@nox.session(python=PYTHONS, default=False)
def pythons(session: nox.Session) -> None:
    """Every package's tests under another Python; skipped where that Python is not installed. About 10 minutes each."""
    for package in PACKAGES:
        _sync(session, "--python", str(session.python), "--package", package, "--group", "test", "--no-default-groups")
        session.run("pytest", f"packages/{package}", *session.posargs)


@nox.session(default=False)
def wheels(session: nox.Session) -> None:
    """Build each package, install the wheel elsewhere with its declared needs, run its README's example."""
    out = Path(session.create_tmp())
    constraints = out / "constraints.txt"
    constraints.write_text("\n".join(_constraints()) + "\n")
    for package in PACKAGES:
        session.run_install(
            "uv", "build", "--quiet", "--package", package, "--no-sources", "--wheel", "-o", str(out), external=True
        )
        wheel = max(out.glob(f"{package.replace('-', '_')}-*.whl"), key=lambda path: path.stat().st_mtime)
        session.run_install(
            "uv",
            "pip",
            "install",
            "--quiet",
            "--reinstall-package",
            package,
            "-c",
            str(constraints),
            str(wheel),
            external=True,
        )
        example = re.search(r"```python\n(.*?)```", (ROOT / "packages" / package / "README.md").read_text(), re.S)
        if example is None:
            session.error(f"packages/{package}/README.md has no python example")
        with session.chdir(out):
            session.run("python", "-c", example[1])
        # no package may find a sibling by luck (its third-party needs are proven by `alone`)
        session.run_install("uv", "pip", "uninstall", "--quiet", package, external=True)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Speed against peers, both sides in one run; renews the plots of docs/images."""
    _sync(session, "--group", "bench")
    session.run("pytest", "benchmarks", "-n0", "--benchmark-only", "-o", "python_files=bench_*.py", *session.posargs)
    for name in ("kmeans", "sinkhorn"):
        session.run("python", f"benchmarks/bench_{name}.py", "--plot", f"docs/images/{name}.png")


@nox.session(name="bench-quality", default=False)
def bench_quality(session: nox.Session) -> None:
    """The race on CIFAR-10 against others' code, 13 hours of two cores in all; resumes (docs/results/race.md)."""
    _sync(session, "--group", "bench")
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("\n".join(_constraints()) + "\n")
    # here and not in the group `bench`: what it brings along would join the pins of everybody
    session.run_install("uv", "pip", "install", "--quiet", "-c", str(constraints), LIGHTLY, external=True)
    solo = ROOT / ".data" / "solo-learn"
    if not solo.exists() and "SOLO_LEARN" not in os.environ:  # without it, its entrants are recorded as failed
        session.run_install("git", "clone", "--quiet", SOLO_LEARN[0], str(solo), external=True, success_codes=[0, 128])
        session.run_install(
            "git", "-C", str(solo), "checkout", "-q", SOLO_LEARN[1], external=True, success_codes=[0, 128]
        )
    session.run("python", "benchmarks/quality", *session.posargs)


@nox.session(default=False)
def collapse(session: nox.Session) -> None:
    """Eighty short runs on four sets of images that look for a collapse, about two hours of two cores; resumes."""
    _sync(session)
    session.run("python", "benchmarks/bench_collapse.py", *session.posargs)


@nox.session(default=False)
def kill(session: nox.Session) -> None:
    """Kill a hundred runs of each method at random moments; each must end as if nothing had happened."""
    _sync(session)
    session.run("python", "tests/kill_runs.py", *session.posargs)


@nox.session(default=False)
def slurm(session: nox.Session) -> None:
    """Stop and requeue jobs of a Slurm of two nodes on this machine; needs root and Debian's Slurm and munge."""
    _sync(session)
    session.run("python", "tests/slurm_jobs.py", *session.posargs)


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """The fuzz tests with 1,500 inputs each instead of a few dozen."""
    _sync(session)
    session.run("pytest", "-k", "fuzz or damage", *session.posargs, env={"CLUSTER_SSL_FUZZ": "1500"})


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of what the workspace installs; fails where the advisory database cannot be asked."""
    _sync(session)
    found = session.run("uv", "pip", "freeze", "--quiet", "--exclude-editable", silent=True, external=True)
    listed = Path(session.create_tmp()) / "requirements.txt"
    listed.write_text(str(found))
    session.run("uvx", "pip-audit", "--strict", "--no-deps", "--disable-pip", "-r", str(listed), external=True)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """The site, into site/."""
    _sync(session, "--group", "docs")
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session(default=False, venv_backend="none")
def pins(session: nox.Session) -> None:
    """Renew the exact versions in pyproject.toml; torch and torchvision stay (docs/decisions/torch-pin.md)."""
    project = ROOT / "pyproject.toml"
    text = project.read_text()
    held = [line for line in _constraints() if re.match(r"torch(vision)?==", line)]
    project.write_text(_with_constraints(text, held))
    try:
        subprocess.run(["uv", "lock", "--quiet", "--upgrade"], cwd=ROOT, check=True)
    except subprocess.CalledProcessError:
        project.write_text(text)
        session.error("uv found no resolution; the pins are as they were")
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    found = {_pin(package) for package in lock["package"] if "registry" in package["source"]}
    project.write_text(_with_constraints(text, sorted(found | set(held))))


def _pin(package: dict[str, Any]) -> str:
    """`name==version`, with the Pythons it is for where the lock has several versions."""
    markers = " or ".join(f"({marker})" for marker in package.get("resolution-markers", ()))
    return f"{package['name']}=={package['version']}" + (f" ; {markers}" if markers else "")


def _constraints() -> list[str]:
    return list(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["constraint-dependencies"])


def _with_constraints(project: str, constraints: list[str]) -> str:
    block = "constraint-dependencies = " + json.dumps(constraints, indent=4)[:-1].rstrip() + ",\n]"
    return re.sub(r"constraint-dependencies = \[.*?\n\]", block, project, count=1, flags=re.S)
