"""A model's files signed for OpenSSF's model-signing: its own verifier takes them, and sees every change."""

import json

import pytest
from cryptography.exceptions import InvalidSignature
from model_signing import verifying

from sau.certificate import envelope
from sau.certificate.weights import new_key, public_pem, sign_weights
from sau.errors import CertificateError, ConfigError

KEY = new_key()


@pytest.fixture
def model(tmp_path):
    """A folder, and its signature and public key beside it."""
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "b.json", "B.json", "sub/a.txt", "sub.txt"):
        (folder / name).write_text(name)
    (tmp_path / "model.sig").write_bytes(sign_weights(folder, KEY))
    (tmp_path / "weights.pem").write_text(public_pem(KEY))
    return folder


def verified(folder):
    """What the stock verifier does with what lies beside a folder."""
    beside = folder.parent
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=beside / "weights.pem")
    verifier.verify(folder, beside / "model.sig")


def test_the_stock_verifier_takes_it(model):
    verified(model)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model.safetensors").write_text("others"),
        lambda folder: (folder / "more.json").write_text("x"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "config.json").rename(folder / "configs.json"),
    ],
)
def test_it_sees_every_change_of_the_files(model, change):
    change(model)
    with pytest.raises(ValueError, match="Signature mismatch"):
        verified(model)


def test_it_sees_another_key_and_a_change_of_the_signature(model):
    signature = model.parent / "model.sig"
    whole = signature.read_bytes()
    (model.parent / "weights.pem").write_text(public_pem(new_key()))
    with pytest.raises(ValueError, match="Key mismatch"):
        verified(model)
    (model.parent / "weights.pem").write_text(public_pem(KEY))
    other = json.loads(whole)
    other["dsseEnvelope"]["payload"] = json.loads(sign_weights(model / "sub", KEY))["dsseEnvelope"]["payload"]
    signature.write_text(json.dumps(other))
    with pytest.raises(InvalidSignature):
        verified(model)


def test_what_cannot_be_signed_is_a_line(tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(CertificateError, match="no folder with files"):
            sign_weights(folder, KEY)
    (tmp_path / "a").write_text("x")
    for key in (b"", envelope.new_key(), b"-----BEGIN PRIVATE KEY-----"):
        with pytest.raises(ConfigError, match="P-256"):
            sign_weights(tmp_path, key)
