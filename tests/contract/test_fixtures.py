"""The plugin as an application uses it: its backends, its marker, whichever library and event loop its tests run on."""

import os
import tomllib
from pathlib import Path
from typing import Final

import pytest

import sessions_pytest
from sessions.store.clients import default_driver
from sessions.testing import BACKENDS

TOP: Final = Path(__file__).parents[2]
CONFTEST: Final = 'pytest_plugins = ["sessions.testing"]'
BY_SHORT_NAMES: Final = """
    import pytest
    from sessions import SessionStatus

    async def test_one(repository, make_session, backend):
        session = await make_session(SessionStatus.WAITING_USER_REPLY, conversation_id="c")
        assert (await repository.route(1, "c")).session == session

    @pytest.mark.needs("transactions")
    async def test_two(repository):
        assert repository
"""
PLAY: Final = """
    import pytest
    from sessions import RouteAction, SessionStatus

    async def play(sessions, make, clock, stored, counter, backend):
        assert set((await sessions.count_by_status()).values()) == {0}  # the database is the test's own
        session = await make(SessionStatus.RERUNNING, conversation_id="c")
        clock.advance(seconds=61)
        with counter.counting() as sent:
            assert (await sessions.route(1, "c")).action is RouteAction.RESUME
        assert sent == ({"find": 1} if backend.is_real else {})
        assert (await stored(session.session_id))["status"] == "rerunning"

    @pytest.fixture
    def fixtures(
        sessions_repository, sessions_maker, sessions_clock, sessions_stored, sessions_command_counter, sessions_backend
    ):
        return (
            sessions_repository, sessions_maker, sessions_clock, sessions_stored, sessions_command_counter,
            sessions_backend,
        )
"""
TWO_UNMARKED: Final = """
    async def test_one(fixtures):
        await play(*fixtures)

    async def test_two(fixtures):
        await play(*fixtures)
"""
ON_EACH_LOOP: Final = """
    @pytest.mark.asyncio
    async def test_a_function(fixtures):
        await play(*fixtures)

    @pytest.mark.asyncio(loop_scope="class")
    class TestClass:
        async def test_one(self, fixtures):
            await play(*fixtures)

        async def test_two(self, fixtures):
            await play(*fixtures)

    @pytest.mark.asyncio(loop_scope="module")
    async def test_a_module(fixtures):
        await play(*fixtures)

    @pytest.mark.asyncio(loop_scope="session")
    async def test_a_session(fixtures):
        await play(*fixtures)

    def test_no_loop(sessions_database, sessions_backend):
        assert sessions_database.name
"""
BY_ANYIO: Final = """
    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(request):
        return request.param

    @pytest.mark.anyio
    async def test_anyio(fixtures):
        await play(*fixtures)

    @pytest.mark.anyio
    class TestAnyio:
        async def test_in_a_class(self, fixtures):
            await play(*fixtures)
"""
SETTINGS: Final = """
    [pytest]
    addopts = -p sessions_pytest -p no:cacheprovider -p no:langsmith_plugin --strict-markers --strict-config
"""
AUTO: Final = "    asyncio_mode = auto\n"
STRICT: Final = "    asyncio_mode = strict\n"
ONE_LOOP: Final = "    asyncio_default_test_loop_scope = session\n    asyncio_default_fixture_loop_scope = session\n"
TWO_BACKENDS: Final = f"    sessions_backends = double {default_driver()}\n"


@pytest.fixture
def application(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with two tests."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(BY_SHORT_NAMES)
    return pytester


def test_each_test_runs_on_the_chosen_backends(application: pytest.Pytester) -> None:
    """What the application has not is left out, and what a backend lacks is skipped by name."""
    application.makeini(SETTINGS + AUTO + ONE_LOOP + "    sessions_backends = double pymongo\n")
    told = application.runpytest_subprocess("-v", "-rs")
    told.assert_outcomes(passed=3, skipped=1, deselected=2)
    told.stdout.fnmatch_lines(["*double: mongomock-motor has none*"])


def test_all_backends_are_the_default(application: pytest.Pytester) -> None:
    """A project that says nothing tests on all; without the entry point the short names bring the long ones."""
    application.makeini(SETTINGS.replace("-p sessions_pytest", "") + AUTO + ONE_LOOP)
    told = application.runpytest_subprocess("--collect-only", "-q")
    assert sum("test_one[" in line for line in told.outlines) == len(BACKENDS)


def test_an_unknown_backend_is_refused(application: pytest.Pytester) -> None:
    """By name, before anything runs."""
    application.makeini(SETTINGS + AUTO + "    sessions_backends = double mongo\n")
    told = application.runpytest_subprocess()
    assert told.ret == pytest.ExitCode.USAGE_ERROR
    told.stderr.fnmatch_lines(["*sessions_backends names mongo; there are double, motor, pymongo*"])


def test_what_the_plugin_names_without_importing_it() -> None:
    """Its entry point repeats the backends and what one may lack."""
    assert tuple(BACKENDS) == sessions_pytest.BACKENDS
    assert tuple(BACKENDS["double"].gaps) == sessions_pytest.CAPABILITIES


@pytest.mark.parametrize(
    ("settings", "tests", "passed", "skipped"),
    [
        pytest.param(AUTO, TWO_UNMARKED, 4, 0, id="auto mode, a loop for each test"),
        pytest.param(AUTO + ONE_LOOP, TWO_UNMARKED, 4, 0, id="auto mode, one loop"),
        pytest.param(STRICT, ON_EACH_LOOP, 12, 0, id="strict mode, loops of each length"),
        pytest.param(STRICT, BY_ANYIO + ON_EACH_LOOP, 16, 4, id="anyio's plugin beside strict mode"),
    ],
)
def test_each_mode_and_loop(pytester: pytest.Pytester, settings: str, tests: str, passed: int, skipped: int) -> None:
    """The fixtures live on the loop of their test, whoever runs it: a driver's client serves no other loop."""
    pytester.makepyfile(PLAY + tests)
    pytester.makeini(SETTINGS + settings + TWO_BACKENDS)
    told = pytester.runpytest_subprocess("-rs")
    told.assert_outcomes(passed=passed, skipped=skipped)
    if skipped:
        told.stdout.fnmatch_lines(["*MongoDB's drivers run on asyncio, not on trio*"])


def test_anyio_alone(pytester: pytest.Pytester) -> None:
    """An application that has no pytest-asyncio needs none; a test that nobody could run is told what is missing."""
    pytester.makepyfile(PLAY + BY_ANYIO + "\n    def test_no_loop(sessions_database): ...\n")
    pytester.makeini(SETTINGS + "    sessions_backends = double\n")
    told = pytester.runpytest_subprocess("-p", "no:asyncio")
    told.assert_outcomes(passed=2, skipped=2, errors=1)
    told.stdout.fnmatch_lines(["*install pytest-asyncio, or mark the test with @pytest.mark.anyio*"])


def test_several_processes(pytester: pytest.Pytester) -> None:
    """Under pytest-xdist each process has a server and databases of its own."""
    pytester.makepyfile(test_a=PLAY + TWO_UNMARKED, test_b=PLAY + TWO_UNMARKED)
    pytester.makeini(SETTINGS + AUTO + TWO_BACKENDS)
    told = pytester.runpytest_subprocess("-n", "2")
    told.assert_outcomes(passed=8)


def test_an_applications_own_names_stay_its_own(pytester: pytest.Pytester) -> None:
    """Loaded in every run, the plugin takes no name that an application is likely to have: fixture, marker, option."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def database(): return "mine"

        @pytest.mark.needs("a printer", color=True)
        def test_mine(database, request):
            assert database == "mine"
            for taken in ("repository", "backend", "stored", "make_session", "session_clock", "mongod_uri"):
                with pytest.raises(pytest.FixtureLookupError):
                    request.getfixturevalue(taken)
        """
    )
    pytester.makeini(SETTINGS + "    markers = needs(what): of the application\n")
    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_a_run_that_uses_none_of_it(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point that pyproject.toml declares imports nothing of the library, nor of what it is built on."""
    declared = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = pytester.mkdir("site") / "as_installed-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: as-installed\nVersion: 1\n")
    lines = [f"{name} = {module}" for name, module in declared.items()]
    (installed / "entry_points.txt").write_text("\n".join(("[pytest11]", *lines)) + "\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(installed.parent), str(TOP))))
    pytester.makepyfile(
        """
        import sys

        def test_nothing(pytestconfig):
            assert pytestconfig.pluginmanager.hasplugin("sessions_pytest")
            assert pytestconfig.getini("sessions_backends") == ["double"]
            packages = {name.partition(".")[0] for name in sys.modules}
            heavy = {"asyncio", "bson", "beanie", "mongomock_motor", "motor", "pydantic", "pymongo", "pytest_asyncio"}
            assert packages & {"sessions", "indexes", *heavy} == set()
        """
    )
    pytester.makeini("[pytest]\nsessions_backends = double\n")
    others = [
        f"no:{name}" for name in ("asyncio", "anyio", "hypothesispytest", "langsmith_plugin", "pytest_cov", "xdist")
    ]
    told = pytester.runpytest_subprocess(*(word for other in others for word in ("-p", other)))
    told.assert_outcomes(passed=1)
