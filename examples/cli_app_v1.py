"""Version 1 of the example program; ``python -m examples.build 1 FILE`` makes the one file that can update itself."""

from examples.cli_app import main

VERSION = "1.0.0"

if __name__ == "__main__":
    main(VERSION)
