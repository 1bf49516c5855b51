import subprocess

import pytest
from bertopic_client import InvalidInput, Tls, TopicClient

URL = "grpcs://localhost:8001"


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A certificate, its key, and a file that is neither."""
    folder = tmp_path_factory.mktemp("pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run(
        [*command, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True
    )
    (folder / "text.pem").write_text("no certificate")
    return folder


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"ca": "nothing.pem"}, r"tls\.ca=.*nothing\.pem.*no such file"),
        ({"certificate": "cert.pem"}, "certificate and key go together"),
        ({"key": "key.pem"}, "certificate and key go together"),
        ({"ca": "text.pem"}, r"text\.pem.*cannot be used"),
        ({"certificate": "key.pem", "key": "cert.pem"}, "cannot be used"),
    ],
    ids=["missing file", "no key", "no certificate", "no PEM", "swapped"],
)
@pytest.mark.parametrize("url", [URL, "https://localhost"])
def test_files_that_cannot_be_used(pem, url, files, message):
    with pytest.raises(InvalidInput, match=message):
        TopicClient(url, tls=Tls(**{name: pem / file for name, file in files.items()}))


def test_files_that_can(pem):
    files = Tls(ca=pem / "cert.pem", certificate=pem / "cert.pem", key=pem / "key.pem")
    TopicClient([URL, "https://localhost"], tls=files).close()


def test_tls_goes_with_a_secure_url(pem):
    with pytest.raises(InvalidInput, match=r"write 'https://b:8000'"):
        TopicClient([URL, "http://b"], tls=Tls(ca=pem / "cert.pem"))


@pytest.mark.parametrize(
    ("headers", "message"),
    [({"a b": "c"}, "'a b', which is no name"), ({"token": "sec\nret"}, "'token'.*printable")],
    ids=["name", "value"],
)
def test_headers_that_cannot_be_sent(headers, message):
    with pytest.raises(InvalidInput, match=message) as refused:
        TopicClient(URL, headers=headers)
    assert "sec" not in str(refused.value)
