"""DSSE envelopes with one Ed25519 signature: made, opened, and refused wherever a byte is not as it was signed."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error as SslibError
from securesystemslib.signer import CryptoSigner, SSlibKey

from sau.errors import CertificateError, ConfigError
from sau.files import read_bounded

MAX_BYTES = 4 << 20


def new_key() -> bytes:
    """A private Ed25519 key, PEM (PKCS 8)."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(private: bytes) -> str:
    """The public half of a private key, PEM.

    Raises:
        ConfigError: not an Ed25519 private key.
    """
    pem = (
        _private(private)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return pem.decode("ascii")


def key_id(public: str) -> str:
    """SHA-256 of a public key's DER: what `openssl pkey -pubin -outform DER | sha256sum` gives.

    Raises:
        ConfigError: not an Ed25519 public key.
    """
    der = _public(public).public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def sign(payload: dict[str, Any], payload_type: str, private: bytes) -> bytes:
    """An envelope around a payload, as the bytes of a file.

    Raises:
        ConfigError: not an Ed25519 private key.
    """
    key = _private(private)
    signer = CryptoSigner(key, _ssl_key(key.public_key(), key_id(public_pem(private))))
    envelope = Envelope(json.dumps(payload, sort_keys=True, ensure_ascii=False).encode(), payload_type, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), indent=1).encode("ascii") + b"\n"


def opened(envelope: bytes, payload_type: str, public: str | None) -> dict[str, Any]:
    """The payload of an envelope, its signature verified; without a key it is read only.

    Raises:
        CertificateError: no envelope, or not one that this key has signed.
        ConfigError: not an Ed25519 public key.
    """
    key = _ssl_key(_public(public), key_id(public)) if public else None
    try:
        if len(envelope) > MAX_BYTES:
            raise CertificateError(f"certificate: longer than {MAX_BYTES} bytes")
        found = json.loads(envelope)
        if found.keys() != {"payload", "payloadType", "signatures"} or len(found["signatures"]) != 1:
            raise CertificateError("certificate: not a DSSE envelope with one signature")
        for encoded in (found["payload"], found["signatures"][0]["sig"]):  # no second spelling of the same bytes
            if base64.b64encode(base64.b64decode(encoded, validate=True)).decode("ascii") != encoded:
                raise ValueError
        parsed = Envelope.from_dict(found)
        if parsed.payload_type != payload_type:
            raise CertificateError(f"certificate: its payload is no {payload_type}")
        if key:
            parsed.verify([key], 1)
        return json.loads(parsed.payload)
    except SslibError:
        raise CertificateError("certificate: it was changed, or another key has signed it") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CertificateError("certificate: not a DSSE envelope") from None


def digest(envelope: bytes) -> str:
    """What identifies a record in the log: SHA-256 of the envelope's bytes."""
    return hashlib.sha256(envelope).hexdigest()


def read_key(given: str) -> str:
    """A public key: a PEM file by path, or the PEM itself.

    Raises:
        ConfigError: neither.
    """
    if "-----BEGIN" in given:
        text = given
    else:
        try:
            text = read_bounded(Path(given), MAX_BYTES).decode("ascii")
        except (OSError, ValueError):
            raise ConfigError(f"public key {given[:200]!r}: no such file, or not PEM") from None
    _public(text)
    return text


def _private(pem: bytes) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("signing key: has to be an Ed25519 private key, PEM, without a passphrase")
    return key


def _public(pem: str) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError("public key: has to be an Ed25519 public key, PEM")
    return key


def _ssl_key(key: Ed25519PublicKey, name: str) -> SSlibKey:
    return SSlibKey.from_crypto(key, keyid=name)
