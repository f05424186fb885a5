"""The plugin as an application uses it: its backends, its marker, its event loop."""

import pytest

from sessions.testing import BACKENDS

CONFTEST = 'pytest_plugins = ["sessions.testing"]'
TEST = """
    import pytest
    from sessions import SessionStatus

    async def test_one(repository, make_session, backend):
        session = await make_session(SessionStatus.WAITING_USER_REPLY, conversation_id="c")
        assert (await repository.route(1, "c")).session == session

    @pytest.mark.needs("transactions")
    async def test_two(repository):
        assert repository
"""
SETTINGS = """
    [pytest]
    addopts = -p no:cacheprovider --strict-markers --strict-config
    asyncio_mode = auto
"""
ONE_LOOP = "    asyncio_default_test_loop_scope = session\n"


@pytest.fixture
def application(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with two tests."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TEST)
    return pytester


def test_each_test_runs_on_the_chosen_backends(application: pytest.Pytester) -> None:
    """What the application has not is left out, and what a backend lacks is skipped by name."""
    application.makeini(SETTINGS + ONE_LOOP + "    sessions_backends = double pymongo\n")
    told = application.runpytest_subprocess("-v", "-rs")
    told.assert_outcomes(passed=3, skipped=1, deselected=2)
    told.stdout.fnmatch_lines(["*double: mongomock-motor has none*"])


def test_all_backends_are_the_default(application: pytest.Pytester) -> None:
    """A project that says nothing tests on all."""
    application.makeini(SETTINGS + ONE_LOOP)
    told = application.runpytest_subprocess("--collect-only", "-q")
    assert sum("test_one[" in line for line in told.outlines) == len(BACKENDS)


def test_another_event_loop_is_refused_in_a_sentence(application: pytest.Pytester) -> None:
    """A test on a loop of its own would meet the driver's riddles."""
    application.makeini(SETTINGS + "    sessions_backends = pymongo\n")
    told = application.runpytest_subprocess()
    told.assert_outcomes(errors=2)
    told.stdout.fnmatch_lines(['*set asyncio_default_test_loop_scope = "session"*'])


def test_an_unknown_backend_is_refused(application: pytest.Pytester) -> None:
    """By name, before anything runs."""
    application.makeini(SETTINGS + "    sessions_backends = double mongo\n")
    told = application.runpytest_subprocess()
    assert told.ret == pytest.ExitCode.USAGE_ERROR
    told.stderr.fnmatch_lines(["*sessions_backends names mongo; there are double, motor, pymongo*"])
