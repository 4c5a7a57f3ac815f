"""Ed25519 keys: make, read, write, sign, verify.

The only room that imports `cryptography`. A key is 64 hex digits (RFC 8032: a private key is its 32-byte seed); a
signature is 128. What a key may sign is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from patchify.errors import InvalidKeyError
from patchify.files import sync_folder

_log = logging.getLogger(__name__)

_KEY_DIGITS = 64
_SIGNATURE_DIGITS = 128
_HEX = frozenset("0123456789abcdefABCDEF")

# The curve, RFC 8032 section 5.1.
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_ORDER_EIGHT_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7
_SMALL_ORDER_Y = frozenset({0, 1, _P - 1, _ORDER_EIGHT_Y, _P - _ORDER_EIGHT_Y})


def decode_hex(text: str, digits: int) -> bytes | None:
    """Return the bytes that ``text`` spells in exactly ``digits`` hex digits of either case, or None."""
    return bytes.fromhex(text) if len(text) == digits and _HEX.issuperset(text) else None


class VerifyingKey:
    """The public half of a key pair: says whether a body was signed by the private half."""

    def __init__(self, data: bytes) -> None:
        """Take 32 bytes. Raises `InvalidKeyError` unless they are a point under which forging is hard."""
        if len(data) != 32:
            raise InvalidKeyError(f"a public key is 32 bytes, not {len(data)}")
        # The libraries below accept points of small order, under which one signature fits every message.
        y = int.from_bytes(data, "little") & ~(1 << 255)
        if y >= _P or not _on_curve(y):
            raise InvalidKeyError("the public key is not a point of the curve Ed25519; was it copied whole?")
        if y in _SMALL_ORDER_Y:
            raise InvalidKeyError("the public key has small order: anybody could sign for it")
        self._data = data
        self._key = Ed25519PublicKey.from_public_bytes(data)

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Read 64 hex digits of either case. Raises `InvalidKeyError`."""
        data = decode_hex(text, _KEY_DIGITS)
        if data is None:
            raise InvalidKeyError(f"a public key is {_KEY_DIGITS} hex digits, not {text[:80]!r}")
        return cls(data)

    def to_hex(self) -> str:
        """Return the key as 64 lower-case hex digits."""
        return self._data.hex()

    def verify(self, body: bytes, signature: bytes) -> bool:
        """Return whether ``signature`` (64 bytes) is this key's signature of ``body``."""
        try:
            self._key.verify(signature, body)
        except InvalidSignature:
            return False
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyingKey) and self._data == other._data

    def __hash__(self) -> int:
        return hash(self._data)

    def __repr__(self) -> str:
        return f"VerifyingKey({self.to_hex()})"


class SigningKey:
    """The private half of a key pair. Its repr, and every error about it, keep it secret."""

    def __init__(self, seed: bytes) -> None:
        """Take the 32 bytes of the seed. Raises `InvalidKeyError` for another length."""
        if len(seed) != 32:
            raise InvalidKeyError(f"a private key is 32 bytes, not {len(seed)}")
        self._seed = seed
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.verifying_key = VerifyingKey(self._key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Self:
        """Make a new random key."""
        return cls(os.urandom(32))

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Read 64 hex digits of either case. Raises `InvalidKeyError`."""
        seed = decode_hex(text, _KEY_DIGITS)
        if seed is None:
            raise InvalidKeyError(
                f"a private key is {_KEY_DIGITS} hex digits; found {len(text)} characters that are not"
            )
        return cls(seed)

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a key file: 64 hex digits and perhaps a newline. Warns in the log if others can read the file.

        Raises:
            InvalidKeyError: the file cannot be read or holds something else.
        """
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                text = file.read(1024).decode("ascii", "replace")
        except (OSError, ValueError) as error:  # ValueError: a null character in the path
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidKeyError(f"the key file {path} cannot be read: {reason}") from error
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            _log.warning("the key file %s can be used by others: chmod 600 %s", path, path)
        try:
            return cls.from_hex(text.strip())
        except InvalidKeyError as error:
            raise InvalidKeyError(f"the key file {path} is not a key: {error}") from None

    @classmethod
    def load(cls, text: str | os.PathLike[str]) -> Self:
        """Read 64 hex digits or, if it is anything else, the key file at that path. Raises `InvalidKeyError`."""
        if isinstance(text, str) and decode_hex(text, _KEY_DIGITS) is not None:
            return cls.from_hex(text)
        # A mistyped key is not a path, even if it is base64 with slashes, and must not appear in an error or a log.
        if (
            isinstance(text, str)
            and len(text) >= 32
            and not os.path.exists(text)
            and not os.path.isdir(os.path.dirname(text))
        ):
            raise InvalidKeyError(
                f"neither {_KEY_DIGITS} hex digits nor the path of a key file ({len(text)} characters)"
            )
        return cls.from_file(Path(text))

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Read the key file at ``path``, making it first if there is none; processes that race get the same key.

        Raises:
            InvalidKeyError: there is a file but it is no key, or none can be made there.
        """
        if not path.exists():
            with contextlib.suppress(FileExistsError):
                cls.generate().write(path)
        return cls.from_file(path)

    def write(self, path: Path) -> None:
        """Write a new key file of mode 0600, whole or not at all, durably.

        Raises:
            FileExistsError: there is a file already; it is left as it is.
            InvalidKeyError: the file cannot be written.
        """
        try:
            descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            try:
                with os.fdopen(descriptor, "w") as file:  # mkstemp made it 0600
                    file.write(self.to_hex() + "\n")
                    file.flush()
                    os.fsync(descriptor)
                os.link(draft, path)
            finally:
                os.unlink(draft)
            sync_folder(path.parent)
        except FileExistsError:
            raise
        except OSError as error:
            raise InvalidKeyError(f"the key file {path} cannot be written: {error.strerror}") from error

    def to_hex(self) -> str:
        """Return the secret as 64 lower-case hex digits."""
        return self._seed.hex()

    def sign(self, body: bytes) -> bytes:
        """Return the 64-byte signature of ``body``; the same body always gives the same one."""
        return self._key.sign(body)

    def __repr__(self) -> str:
        return f"SigningKey(public={self.verifying_key.to_hex()})"


def encode_signature(signature: bytes) -> str:
    """Return a signature as the wire has it: 128 upper-case hex digits."""
    return signature.hex().upper()


def decode_signature(text: str) -> bytes | None:
    """Return the signature that 128 hex digits of either case spell, or None."""
    return decode_hex(text, _SIGNATURE_DIGITS)


def _on_curve(y: int) -> bool:
    """Return whether some x satisfies -x² + y² = 1 + d·x²·y² (RFC 8032 section 5.1.3)."""
    x_squared = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    return x_squared == 0 or pow(x_squared, (_P - 1) // 2, _P) == 1
