"""``python -m indexes``."""

import sys

from indexes.cli import main

if __name__ == "__main__":
    sys.exit(main())
