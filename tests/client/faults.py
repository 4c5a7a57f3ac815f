"""A disk that fails: each file operation of the client is counted, and the one with a given number does not succeed."""

import contextlib
import errno
import io
import os
from io import FileIO

import pytest

from patchify import files
from patchify.client import archive, file_installer, folder_installer, staging

ERRORS = {errno.errorcode[number]: number for number in (errno.ENOSPC, errno.EIO, errno.EACCES)}
_OS = (
    "chmod",
    "fchmod",
    "fchown",
    "fstat",
    "fsync",
    "link",
    "listdir",
    "lstat",
    "mkdir",
    "open",
    "readlink",
    "replace",
    "rmdir",
    "scandir",
    "stat",
    "symlink",
    "unlink",
    "utime",
)
_FILE = ("read", "readinto", "seek", "truncate", "write")


@contextlib.contextmanager
def disk(fail_at: int | None = None, number: int = 0, *, always: str | None = None):
    """Yield the names of the operations done so far; the one at ``fail_at`` fails, or all that are called ``always``."""
    done: list[str] = []

    def counted(name, function):
        def call(*args, **kwargs):
            done.append(name)
            if len(done) - 1 == fail_at or name == always:
                raise OSError(number, os.strerror(number))
            return function(*args, **kwargs)

        return call

    class File(FileIO):
        def __init__(self, file, *args):
            if not isinstance(file, int):
                counted("file", lambda: None)()
            super().__init__(file, *args)

    def fdopen(descriptor, mode):
        assert mode == "wb"
        return io.BufferedWriter(File(descriptor, "w"))

    for name in _FILE:
        setattr(File, name, counted(name, getattr(FileIO, name)))
    with pytest.MonkeyPatch.context() as patch:
        for name in _OS:
            patch.setattr(os, name, counted(name, getattr(os, name)))
        patch.setattr(os, "fdopen", fdopen)
        patch.setattr(io, "open", counted("path open", io.open))
        patch.setattr(folder_installer, "_exchange", counted("exchange", folder_installer._exchange))
        for module in (archive, files, file_installer, folder_installer, staging):
            patch.setattr(module, "FileIO", File)
        yield done
