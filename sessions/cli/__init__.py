"""The operator's commands: ``python -m sessions``, also installed as ``sessions``."""
