from __future__ import annotations

import datetime
import pathlib
from typing import NamedTuple

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf import text_format

from psad_tf.errors import InputError
from psad_tf.serving.client import CallPolicy, ModelChoice, RerankClient, RerankError, Tls
from psad_tf.serving.server import EmbeddedServer
from psad_tf.serving.server.config_protos import SSLConfig
from psad_tf.serving.server.settings import ServerSettings, read_ssl
from tests.psad_tf.serving.tiny_models import scale_request

ONCE = CallPolicy(timeout=20, fallback=False)


class Pair(NamedTuple):
    """A key and its certificate, PEM text."""

    key: str
    certificate: str


def certificate(
    name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None
) -> tuple:
    """A throw-away certificate, signed by `issuer` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return signed, key, Pair(private.decode(), signed.public_bytes(serialization.Encoding.PEM).decode())


class Certificates(NamedTuple):
    """Files of one authority."""

    ca: str
    client_certificate: str
    client_key: str
    config: str
    mutual_config: str


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ca, ca_key, ca_pair = certificate("authority")
    server, client = (certificate(name, (ca, ca_key))[2] for name in ("server", "client"))
    files = {"ca.pem": ca_pair.certificate, "client.pem": client.certificate, "client.key": client.key}
    for verify in (False, True):
        config = SSLConfig(
            server_key=server.key,
            server_cert=server.certificate,
            custom_ca=ca_pair.certificate,
            client_verify=verify,
        )
        files["mutual.config" if verify else "ssl.config"] = text_format.MessageToString(config)
    for name, text in files.items():
        (folder / name).write_text(text)
    names = ("ca.pem", "client.pem", "client.key", "ssl.config", "mutual.config")
    return Certificates(*(str(folder / name) for name in names))


def ask(server: EmbeddedServer, tls: Tls | None) -> int:
    address = f"localhost:{server.port}"
    with RerankClient(address, model=ModelChoice("scale"), policy=ONCE, tls=tls, max_attempts=1) as client:
        return client.predict(scale_request()).model_spec.version.value


def settings(config: str) -> ServerSettings:
    return ServerSettings(ssl=read_ssl(config), file_system_poll_wait_seconds=0)


def test_tls_answers_who_trusts_the_authority_and_no_one_else(
    models: pathlib.Path, certificates: Certificates
) -> None:
    with EmbeddedServer.of_model("scale", models, settings(certificates.config)) as server:
        assert ask(server, Tls(certificates.ca)) == 2
        for other in (None, Tls()):
            with pytest.raises(RerankError) as raised:
                ask(server, other)
            assert raised.value.code is grpc.StatusCode.UNAVAILABLE


def test_mutual_tls_answers_only_clients_with_a_certificate(
    models: pathlib.Path, certificates: Certificates
) -> None:
    mine = Tls(certificates.ca, certificates.client_certificate, certificates.client_key)
    with EmbeddedServer.of_model("scale", models, settings(certificates.mutual_config)) as server:
        assert ask(server, mine) == 2
        with pytest.raises(RerankError):
            ask(server, Tls(certificates.ca))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "server_key must hold PEM text"),
        ("server_key: '-----BEGIN' ", "server_cert must hold PEM text"),
        ("server_key: '-----BEGIN' server_cert: '-----BEGIN' client_verify: true", "needs custom_ca"),
        ("key: 'x'", "no field named"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: pathlib.Path, text: str, message: str) -> None:
    (tmp_path / "ssl.config").write_text(text)
    with pytest.raises(InputError, match=message):
        read_ssl(tmp_path / "ssl.config")


def test_a_missing_certificate_of_the_client_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        RerankClient("localhost:1", tls=Tls(str(tmp_path / "ca.pem")))
