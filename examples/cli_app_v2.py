"""Version 2 of the example program: ``python -m examples.cli_app_v2``, or built into one file (see the README)."""

from examples.cli_app import main

VERSION = "2.0.0"

if __name__ == "__main__":
    main(VERSION)
