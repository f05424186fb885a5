"""The demo of the command line: ``python -m sessions demo``."""
