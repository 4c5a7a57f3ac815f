"""The program ``patchify``, also ``python -m patchify``: the server's commands without ``flask`` in front.

It stands outside of both halves, so that it can say which of them is not installed.
"""

import sys

from patchify.errors import MissingExtraError


def main() -> None:
    """Run the command line and end the process with its exit status."""
    try:
        from patchify.server.commands import program  # noqa: PLC0415 - it may not be installed
    except MissingExtraError as error:
        sys.exit(f"Error: {error}")
    program(prog_name="patchify")


if __name__ == "__main__":
    main()
