"""What a session is: lifecycle, limits, values, errors, and what time does to it; no I/O."""
