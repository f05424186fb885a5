import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [("sessions.langgraph", "langgraph", "langgraph"), ("sessions.fastapi", "fastapi", "fastapi")],
)
def test_a_missing_extra_names_its_command(module: str, package: str, extra: str) -> None:
    """Whoever imports a framework's module without the framework reads how to install it."""
    code = f"import sys; sys.modules[{package!r}] = None; import {module}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603 - our own code
    told = f"{module} needs {package}: pip install 'active-schedule-sessions[{extra}]'"
    assert ended.stderr.splitlines()[-1].endswith(f"MissingExtra: {told}")
