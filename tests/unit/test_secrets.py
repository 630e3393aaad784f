"""Secrets and local paths are found with their kind and line, are never handed out, and plain text passes."""

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.secrets import find_private_paths, find_secrets

ALPHANUMERIC = string.ascii_letters + string.digits
B64 = ALPHANUMERIC + "-_"


def _random(alphabet: str, length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(alphabet, k=length))


def planted(seed: int) -> dict[str, str]:
    """One credential of each kind, made anew so that no real-looking key stands in the repository."""
    letters = _random(ALPHANUMERIC, 40, seed)
    return {
        "Hugging Face token": "hf_" + letters[:34],
        "sk- API key": "sk-proj-" + letters[:20] + "7" + letters[20:],
        "AWS access key id": "AKIA" + _random(string.ascii_uppercase + string.digits, 16, seed),
        "GitHub token": ("ghp_" + letters[:36]) if seed % 2 else ("github_pat_" + letters[:30]),
        "Slack token": "xoxb-" + _random(string.digits, 12, seed) + "-" + letters[:20],
        "private key": "-----BEGIN "
        + random.Random(seed).choice(["", "RSA ", "EC ", "OPENSSH "])
        + "PRIVATE KEY-----",
        "JSON web token": "eyJ"
        + _random(B64, 20, seed)
        + ".eyJ"
        + _random(B64, 30, seed)
        + "."
        + _random(B64, 43, seed),
        "URL with a password": f"https://minsu:{letters[:9]}@hub.example.org/x",
        "Authorization header": f"Authorization: Bearer {letters[:24]}",
    }


KINDS = sorted(planted(0))
AROUND = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r"), max_size=60)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10_000), before=AROUND, after=AROUND)
def test_planted_secret_is_found_on_its_line_and_not_repeated(
    kind: str, seed: int, before: str, after: str
) -> None:
    secret = planted(seed)[kind]
    found = find_secrets(f"{before}\n값: {secret}\n{after}")
    assert (kind, before.count("\n") + 2) in found
    assert all(secret not in name for name, _ in found)


@pytest.mark.parametrize("kind", KINDS)
def test_secret_inside_json_is_found(kind: str) -> None:
    import json

    text = json.dumps({"log": f"start\n{planted(3)[kind]}\nend", "시": "값"}, ensure_ascii=False)
    assert kind in [name for name, _ in find_secrets(text)]


def test_known_credential_of_any_shape_is_found() -> None:
    assert find_secrets("a\nb zugang=Schluessel.1 c", known=["Schluessel.1", ""]) == [
        ("credential of this process", 2)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "서울은 대한민국의 수도이다. https://hub.example.org/org/name 를 보라.",
        "العاصمة هي الرياض، راجع https://example.org/a:b/c@d",
        "class sk-estimator-doc-link-fitted and hf_transfer and task-sk-learn",
        "AKIA is a prefix; ghp_ too; eyJ alone; -----BEGIN CERTIFICATE-----",
        "set it with: export TOKEN; then Authorization: Bearer $TOKEN or Bearer <token>",
        "sha256 " + "0a1b" * 16,
    ],
)
def test_plain_text_passes(text: str) -> None:
    assert find_secrets(text) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("model: /home/minsu/base", 1),
        ("a\nb\n/home/김철수/모델", 3),
        ('{"base": "/root/.cache/x"}', 1),
        ("see /root", 1),
        ("/Users/anna/runs", 1),
        (r"C:\Users\anna\runs", 1),
        (r'"C:\\Users\\anna"', 1),
        ("d:/users/anna", 1),
        ("file:///etc/x", 1),
        ("PATH=/usr/bin:/home/anna/bin", 1),
        (r'"first\n/home/anna/bin"', 1),
        ("/tmp/pytest-1/run", 1),
    ],
)
def test_local_paths_are_found(text: str, line: int) -> None:
    assert [found for _, found in find_private_paths(text)] == [line]


@pytest.mark.parametrize(
    "text",
    [
        "https://hub.example.org/home/page and https://x.org/root/y",
        "/usr/bin/python and /etc/hosts and ./home/x and ~/data/x and a/home/b",
        "cd /home/user && ls /home/$USER; /home/<you>/x",
        "and/or 1/2 /rooted /homestead",
        "adapter/adapter_config.json",
    ],
)
def test_other_paths_pass(text: str) -> None:
    assert find_private_paths(text) == []


def test_user_host_and_folder_names() -> None:
    names = {
        "users": ["minsu", "root"],
        "hosts": ["gpu-node-3", "localhost"],
        "folders": ["/work/lab", "/app", "/"],
    }
    assert find_private_paths("by minsu", **names) == [("user name", 1)]
    assert find_private_paths('{"host": "gpu-node-3"}', **names) == [("host name", 1)]
    assert find_private_paths("http://gpu-node-3:8080/", **names) == [("host name", 1)]
    assert find_private_paths("from /work/lab/runs/x", **names) == [("local path", 1)]
    # Publishing under one's own name is no leak, and words that are account names by habit are none either.
    for text in (
        "minsu@lab.kr",
        "minsu/adapter",
        "minsung",
        "root mean square",
        "/workshop/lab",
        "my-gpu-node-31",
    ):
        assert find_private_paths(text, **names) == [], text


def test_names_are_compared_in_nfc() -> None:
    import unicodedata

    decomposed = unicodedata.normalize("NFD", "김철수")
    assert find_private_paths(f"by {decomposed}", users=["김철수"]) == [("user name", 1)]
