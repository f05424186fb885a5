"""What an application calls: every race between its users, workers and processes ends here as one outcome."""
