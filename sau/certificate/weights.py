"""A model's files signed for OpenSSF's model-signing: its stock verifier then says whether one was changed.

A Sigstore bundle (v0.3) around a DSSE envelope with an in-toto statement of predicate `model_signing/signature/v1.0`,
signed with ECDSA on P-256: that verifier takes no Ed25519, so this key is another one than that of the records.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.dsse import Envelope

from sau.certificate.files import subjects_of
from sau.certificate.record import PAYLOAD_TYPE
from sau.errors import CertificateError, ConfigError

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PREDICATE = "https://model_signing/signature/v1.0"


def new_key() -> bytes:
    """A private P-256 key, PEM (PKCS 8)."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(private: bytes) -> str:
    """The public half, PEM.

    Raises:
        ConfigError: not a P-256 private key.
    """
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return _private(private).public_key().public_bytes(serialization.Encoding.PEM, form).decode("ascii")


def sign_weights(folder: Path, private: bytes) -> bytes:
    """The signature of every file below a folder, as the bytes of a file that has to lie outside of it.

    Raises:
        CertificateError: no such folder, or nothing in it.
        ConfigError: not a P-256 private key.
    """
    if not folder.is_dir() or not (files := subjects_of(folder)):
        raise CertificateError(f"{folder}: no folder with files")
    digests = [bytes.fromhex(file["digest"]["sha256"]) for file in files]
    root = hashlib.sha256(b"".join(digests)).hexdigest()
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": folder.resolve().name, "digest": {"sha256": root}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []},
            "resources": [
                {"name": file["name"], "algorithm": "sha256", "digest": file["digest"]["sha256"]} for file in files
            ],
        },
    }
    payload = json.dumps(statement, sort_keys=True).encode("ascii")
    signature = _private(private).sign(Envelope(payload, PAYLOAD_TYPE, {}).pae(), ec.ECDSA(hashes.SHA256()))
    hint = hashlib.sha256(public_pem(private).encode("ascii")).hexdigest()
    bundle: dict[str, Any] = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode("ascii"), "keyid": ""}],
        },
    }
    return json.dumps(bundle, indent=1).encode("ascii") + b"\n"


def _private(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError("weights key: has to be a P-256 private key, PEM, without a passphrase")
    return key
