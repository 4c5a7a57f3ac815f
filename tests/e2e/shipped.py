"""What comes in the folder ``config``, run as it is: only addresses, paths and the certificate are others."""

import contextlib
import json
import os
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.running import PATIENCE, ROOT, Gunicorn, Process, free_port, wait_until

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
CONFIG = ROOT / "config" / "gunicorn.conf.py"
INTERNAL = "/_patchify/"  # PATCHIFY_X_ACCEL_REDIRECT for the shipped configuration of nginx


def our_server(settings: dict, folder: Path, *options, port: int | None = None) -> Gunicorn:
    """Return gunicorn with our configuration and the application of `create_app`, not yet started."""
    lines = (f"PATCHIFY_{name.upper()} = {_toml(value)}\n" for name, value in settings.items() if value is not None)
    (folder / "patchify.toml").write_text("".join(lines))
    environment = {"PATCHIFY_CONFIG": str(folder / "patchify.toml")}
    log = folder / "gunicorn.log"
    return Gunicorn("patchify.server:create_app()", log, "-c", CONFIG, *options, env=environment, port=port)


def _toml(value) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)} = {_toml(each)}' for key, each in value.items())}}}"
    return json.dumps(value if isinstance(value, bool | int) else str(value))


class Nginx(Process):
    """A real nginx with our configuration, in front of a server; ready when it is entered.

    Args:
        folder: For its files; exists.
        upstream: The port of the server.
        releases: The folder of the releases.
        main: Directives outside of all blocks.
        plain: Whether the site is there without TLS as well, at ``http_only``, as none should be.
    """

    def __init__(self, folder: Path, upstream: int, releases: Path, main: str = "", *, plain: bool = False):
        self.http, self.https, self.http_only = free_port(), free_port(), free_port()
        self.certificate = folder / "certificate"
        _write_certificate(self.certificate)
        site = (ROOT / "config" / "nginx.conf").read_text()
        for old, new in {
            "/etc/ssl/certs/updates.example.com.pem": str(self.certificate),
            "/etc/ssl/private/updates.example.com.key": str(self.certificate),
            "/var/cache/patchify": f"{folder}/cache",
            "/srv/releases/": f"{releases}/",
            "listen [::]:": "# listen ",  # a machine may have no IPv6
            "listen 80;": f"listen 127.0.0.1:{self.http};",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.https} ssl;" + f" listen 127.0.0.1:{self.http_only};" * plain,
            "127.0.0.1:8000": f"127.0.0.1:{upstream}",
        }.items():
            assert old in site, old
            site = site.replace(old, new)
        (folder / "site.conf").write_text(site)
        user = "user root;" if os.geteuid() == 0 else ""  # who can read what a test has written
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        (folder / "nginx.conf").write_text(
            f"daemon off; {user} {main} pid {folder}/nginx.pid; error_log stderr; events {{ worker_connections 2048; }}\n"
            f"http {{ access_log off; {temporary} include {folder}/site.conf; }}\n"
        )
        self.command = [NGINX, "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]
        super().__init__(self.command, folder / "nginx.log")
        self.url = f"https://localhost:{self.https}"

    def __enter__(self):
        wait_until(self._ready, f"nginx's port\n{self.output()}", PATIENCE)
        return self

    def _ready(self) -> bool:
        assert self.popen.poll() is None, self.output()
        with contextlib.closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.https)) == 0


def _write_certificate(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(certificate.public_bytes(pem) + private)
