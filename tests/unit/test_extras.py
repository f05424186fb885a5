import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("what", "use", "package", "extra"),
    [
        ("sessions.langgraph", "import sessions.langgraph", "langgraph", "langgraph"),
        ("sessions.fastapi", "import sessions.fastapi", "fastapi", "fastapi"),
        (
            "The in-memory double",
            "from sessions.store.clients import connect_double; connect_double()",
            "mongomock_motor",
            "testing",
        ),
    ],
)
def test_a_missing_extra_names_its_command(what: str, use: str, package: str, extra: str) -> None:
    """Whoever uses what an extra brings, without it, reads how to install it."""
    code = f"import sys; sys.modules[{package!r}] = None; {use}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603 - our own code
    told = f"{what} needs {package}: pip install 'active-schedule-sessions[{extra}]'"
    assert ended.stderr.splitlines()[-1].endswith(f"MissingExtra: {told}")
