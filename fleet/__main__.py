"""Runs `python -m fleet`: the command ``shoal``."""

from fleet.cli import main

if __name__ == "__main__":
    main()
