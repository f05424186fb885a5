"""The suite uses the fixtures that the library ships."""

pytest_plugins = ["sessions.testing"]
