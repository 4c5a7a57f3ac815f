import inspect
from pathlib import Path

import pytest

from patchify import errors
from patchify.errors import FileOperationError, PatchifyError, RejectedError, UnavailableError

LEAVES = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, PatchifyError) and each not in {PatchifyError, RejectedError, UnavailableError}
]


@pytest.mark.parametrize("error", LEAVES, ids=lambda error: error.__name__)
def test_every_error_is_of_exactly_one_family_and_ends_in_error(error):
    assert error.__name__.endswith("Error")
    assert error.__doc__
    if error is not errors.MissingExtraError:  # raised by an import: no family applies
        assert issubclass(error, RejectedError) != issubclass(error, UnavailableError)


def test_a_file_operation_tells_operation_path_and_cause():
    error = errors.UnableToSwapError(Path("/opt/app"), OSError(13, "Permission denied"))
    assert str(error) == "unable to replace the program /opt/app: Permission denied"
    assert (error.path, error.errno) == (Path("/opt/app"), 13)
    assert str(FileOperationError("app", "in use")) == "unable to use app: in use"
    assert FileOperationError("app", "in use").errno is None
    assert str(FileOperationError("app", OSError("odd"))) == "unable to use app: odd"


@pytest.mark.parametrize(
    ("error", "message", "facts"),
    [
        (errors.ActionDeniedError(), "no new critical action may start until it is done", {}),
        (errors.NothingStagedError(), "call install() first", {}),
        (errors.ClosedError(), "is closed", {}),
        (
            errors.MissingExtraError("patchify.server", "[server]", "flask"),
            "pip install 'patchify-updater[server]'",
            {},
        ),
        (
            errors.RedirectError("http://x/", "http://y/", "another host"),
            "'http://y/', which is refused: another host",
            {},
        ),
        (errors.HttpError("http://x/", 404), "HTTP status 404; is the address of the API right?", {"status": 404}),
        (
            errors.UnexpectedContentTypeError("http://x/", found="a", expected="b"),
            "'a', but 'b' is expected",
            {"found": "a"},
        ),
        (errors.TooMuchDataError("http://x/", 9, "the limit"), "longer than 9 bytes, the limit", {"limit": 9}),
        (errors.MissingSignatureError("http://x/"), "no X-Signature header", {"url": "http://x/"}),
        (errors.InvalidSignatureError("http://x/", "F"), "'F'; 128 hex digits are expected", {"signature": "F"}),
        (errors.FailedSignatureVerificationError("http://x/"), "is the public key in the configuration right?", {}),
        (
            errors.FailedHashVerificationError("1.0.0", expected="a", found="b"),
            "SHA-256 b, but a is signed",
            {"found": "b"},
        ),
        (errors.WrongVersionError(released="2.0.0", running="1.0.0"), "it would update for ever", {"running": "1.0.0"}),
        (errors.MissingDataError("http://x/", received=1, expected=2), "after 1 of 2 bytes", {"retry_after": None}),
        (errors.ServerBusyError("http://x/", 503, 12.0), "503; it asks to wait 12 s", {"retry_after": 12.0}),
        (errors.ServerBusyError("http://x/", 500, None), "HTTP status 500", {"status": 500}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_says_what_would_be_right_and_carries_its_facts(error, message, facts):
    assert message in str(error)
    assert {name: getattr(error, name) for name in facts} == facts


def test_a_long_text_of_somebody_else_is_cut():
    assert len(str(errors.InvalidVersionError("1" * 10_000, "too long"))) < 200
    assert len(str(errors.InvalidSignatureError("http://x/latest", "F" * 10_000))) < 300
