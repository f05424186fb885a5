"""What the in-memory double cannot show."""

from sessions.store.clients import Database
from sessions.store.handles import handles_of


class DoubleShowsNoRace(RuntimeError):
    """A race was to be shown on the in-memory double, where none can happen."""


def refuse_the_double(database: Database, what: str) -> None:
    """Certify nothing on the double.

    Raises:
        DoubleShowsNoRace: The database is the in-memory double.
    """
    if not handles_of(database).is_server:
        raise DoubleShowsNoRace(
            f"{what} would prove nothing here: the in-memory double carries out each call whole, so that two of them "
            'never overlap. Mark the test with @pytest.mark.needs("server"), and it runs where a server answers'
        )
