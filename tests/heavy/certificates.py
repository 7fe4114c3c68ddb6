"""Private CAs and their certificates, upstreams that speak TLS, and proxies that tunnel to them."""

from __future__ import annotations

import datetime
import ipaddress
import select
import socket
import ssl

import pytest
from sockets import WAIT, Upstream, get, served

from filesproxy import create_app

x509 = pytest.importorskip("cryptography.x509", reason="needs cryptography")
hashes = pytest.importorskip("cryptography.hazmat.primitives.hashes")
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")

HERE = ("localhost", "127.0.0.1")


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def certificate(subject, key, issuer, issuer_key, days=30, names=(), is_ca=False, usage=True):
    """A certificate as PEM; without `usage` it lacks what VERIFY_X509_STRICT wants, which Python 3.13 turns on."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=60))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if usage:
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
        allowed = dict.fromkeys((*others, "decipher_only"), False)
        allowed.update(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca)
        builder = builder.add_extension(x509.KeyUsage(**allowed), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(_name, names))), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(host):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class Authority:
    """A private CA in a folder: `ca` is its PEM file; it makes certificates with their keys, and servers' contexts."""

    def __init__(self, folder, name, usage=True):
        self._folder, self.name = folder, name
        self.key = new_key()
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(certificate(name, self.key, name, self.key, is_ca=True, usage=usage))

    def issue(self, file, *names, days=30):
        """The path of a new certificate for these hosts, or else for this machine, with its key."""
        key, path = new_key(), self._folder / f"{self.name}-{file}.pem"
        pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        made = certificate(file, key, self.name, self.key, days, names or HERE)
        path.write_bytes(key.private_bytes(*pem) + made)
        return path

    def context(self, file, *names, days=30):
        """A server's context with such a certificate."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.issue(file, *names, days=days))
        return made


def secure(script, context):
    """An upstream that speaks TLS."""

    def wrapped(sock):
        try:
            return context.wrap_socket(sock, server_side=True)
        except OSError:
            sock.close()
            raise

    return Upstream(script, wrapped)


def compat(port, host="localhost", **settings):
    """A gateway with one provider, over TLS on this port."""
    settings = {"kind": "openai", "base_url": f"https://{host}:{port}/v1", **settings}
    return create_app({"provider:compat": {name: str(value) for name, value in settings.items()}})


def metadata(port, **settings):
    """What a client of such a gateway gets for a file's metadata."""
    with served(compat(port, **settings)) as server:
        return get(server.server_port, "/v1/files/file-1")


def tunnel(peer):
    """A script: a CONNECT proxy, which goes to 127.0.0.1 whatever the name, and keeps every byte it sees."""
    port = int(peer.read_head().split(b" ")[1].rpartition(b":")[2])
    with socket.create_connection(("127.0.0.1", port), WAIT) as origin:
        peer.send(b"HTTP/1.1 200 Connection established\r\nproxy-agent: test\r\n\r\n")
        peer.sock.settimeout(WAIT)
        while True:
            ready, _, _ = select.select([peer.sock, origin], [], [], WAIT)
            for source in ready:
                block = peer.read() if source is peer.sock else origin.recv(65536)
                if not block:
                    return
                (origin if source is peer.sock else peer.sock).sendall(block)


def connect_lines(proxy):
    """The lines of each CONNECT that a proxy got, in small letters."""
    return [
        bytes(peer.received).partition(b"\r\n\r\n")[0].decode("latin-1").lower().split("\r\n") for peer in proxy.peers
    ]
