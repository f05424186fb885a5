"""How the suite is run on each Python and each Beanie line: ``nox -f .ci/noxfile.py``, from the top of the checkout."""

import json
import os
from pathlib import Path

import nox

PYTHONS = ("3.11", "3.12", "3.13")
STACKS = {"motor": "test", "pymongo": "pymongo,test-tools"}  # Beanie 1.30 and Beanie 2: extras of pyproject.toml
TOP = Path(__file__).parents[1]

nox.needs_version = ">=2026.10"
nox.options.error_on_missing_interpreters = False  # in CI too: a Python that the machine lacks is skipped by name
nox.options.download_python = "never"

# pyenv puts a python3.12 on PATH that answers only where 3.12 was chosen; the real ones come behind it.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
FOUND = [str(folder) for version in PYTHONS for folder in sorted(PYENV.glob(f"versions/{version}.*/bin"))]
os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *FOUND])


def install(session: nox.Session, extras: str) -> None:
    """The library as it stands, with these extras; what follows runs at the top of the checkout."""
    session.chdir(TOP)
    session.install("--editable", f".[{extras}]")
    session.run("python", "-m", "pip", "check", silent=True)


@nox.session(python=PYTHONS)
@nox.parametrize("stack", [nox.param(stack, id=stack) for stack in STACKS])
def tests(session: nox.Session, stack: str) -> None:
    """The suite; pytest takes what follows ``--``, as in ``-- -m "not slow"``."""
    install(session, STACKS[stack])
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
@nox.parametrize("stack", [nox.param(stack, id=stack) for stack in STACKS])
def lint(session: nox.Session, stack: str) -> None:
    """Style, who may import whom, and types; the types on both lines of Beanie."""
    install(session, f"{STACKS[stack]},lint")
    if stack == "motor":
        session.run("ruff", "check", ".")
        session.run("ruff", "format", "--check", ".")
        session.run("lint-imports", "--no-logo")
        session.run("deptry", ".")
    session.run("mypy")


@nox.session(python=PYTHONS)
def wheel(session: nox.Session) -> None:
    """What a release holds: built, checked, and used from an empty environment, where no checkout is."""
    session.chdir(TOP)
    session.install(".[release]")
    built = Path(session.create_tmp()).resolve()
    session.run("python", "-m", "build", "--outdir", str(built), silent=True)
    wheels, archives = sorted(built.glob("*.whl")), sorted(built.glob("*.tar.gz"))
    session.run("twine", "check", "--strict", *map(str, (*wheels, *archives)))
    session.run("python", "-m", "venv", "--clear", f"{built}/empty")
    python = f"{built}/empty/bin/python"
    session.run(python, "-m", "pip", "install", "--quiet", f"{wheels[-1]}[demo]", external=True)
    session.chdir(built)
    session.run(python, "-c", "import indexes, sessions; sessions.ActiveScheduleSession", external=True)
    session.run(python, "-m", "sessions", "demo", silent=True, external=True)


@nox.session(python=PYTHONS[0])
def docs(session: nox.Session) -> None:
    """The site: every link leads somewhere, and every public name has its place in the reference."""
    session.chdir(TOP)
    session.install(".[docs]")
    env = {"NO_MKDOCS_2_WARNING": "1"}
    session.run("mkdocs", "build", "--strict", "--quiet", "--site-dir", session.create_tmp(), env=env)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Tests on the lowest versions that `pyproject.toml` allows; pytest takes what follows ``--``."""
    session.chdir(TOP)
    session.install(".[release]")
    pinned = Path(session.create_tmp()) / "lowest.txt"
    asked = ("--resolution", "lowest-direct", "--python-version", PYTHONS[0], "--extra", "test")
    session.run("uv", "pip", "compile", "--quiet", *asked, "--output-file", str(pinned), "pyproject.toml")
    session.run("uv", "pip", "uninstall", "--quiet", "active-schedule-sessions")
    session.install("--requirement", str(pinned))
    session.install("--no-deps", "--editable", ".")
    session.run("pytest", "-m", "not slow", *session.posargs)


@nox.session(python=PYTHONS[0])
def audit(session: nox.Session) -> None:
    """Known weaknesses of what a user installs; skipped by name where the list of them can't be had."""
    session.chdir(TOP)
    session.install(".[motor,cli,fastapi,langgraph,telemetry,testing,release]")
    told = Path(session.create_tmp()) / "audit.json"
    told.unlink(missing_ok=True)
    options = ("--skip-editable", "--progress-spinner", "off", "--format", "json", "--output", str(told))
    session.run("pip-audit", *options, silent=True, success_codes=[0, 1])
    found = json.loads(told.read_text(encoding="utf-8"))["dependencies"] if told.exists() else []
    if not any("vulns" in each for each in found):
        session.skip("the list of known weaknesses can't be had here")
    if weak := [f"{each['name']} {each['version']}" for each in found if each.get("vulns")]:
        session.error(f"known weaknesses: {', '.join(weak)}")
