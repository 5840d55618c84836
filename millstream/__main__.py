"""The command line: `millstream …` and `python -m millstream …` are the same."""

import sys

from console.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
