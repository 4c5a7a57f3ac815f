"""Version 2 of the example program; ``python -m examples.build 2 FILE`` makes the one file that can update itself."""

from examples.cli_app import main

VERSION = "2.0.0"

if __name__ == "__main__":
    main(VERSION)
