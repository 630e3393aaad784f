"""The audit hook lets named hosts and loopback pass and stops the rest; run in processes of their own."""

import json
import os
import subprocess
import sys

import pytest

from sovtune.errors import UsageError
from sovtune.network import allowed_hosts

PRELUDE = """
import json, socket, threading
from sovtune.errors import EnvironmentFault
from sovtune.network import allowed_hosts, guard_egress
def outcome(call):
    try:
        call()
    except EnvironmentFault as error:
        return "refused: " + str(error)
    except OSError:
        return "passed"
    return "passed"
def tcp(host, port=9, family=socket.AF_INET):
    s = socket.socket(family); s.settimeout(0.05)
    try: s.connect((host, port))
    finally: s.close()
def udp(host):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try: s.sendto(b"x", (host, 9))
    finally: s.close()
"""


def run(code: str, **environment: str) -> dict[str, object]:
    """Run code in a fresh process; its last line is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_only_named_hosts_and_loopback_pass() -> None:
    result = run("""
guard = guard_egress(allowed_hosts(["http://192.0.2.7:9/prefix", "https://Hub.Example.invalid./x"]))
listener = socket.create_server(("127.0.0.1", 0))
left, right = socket.socketpair()  # UNIX
in_thread = []
thread = threading.Thread(target=lambda: in_thread.append(outcome(lambda: tcp("192.0.2.8"))))
thread.start(); thread.join()
print(json.dumps({
    "named": outcome(lambda: tcp("192.0.2.7")),
    "other": outcome(lambda: tcp("192.0.2.8")),
    "thread": in_thread[0],
    "udp": outcome(lambda: udp("192.0.2.8")),
    "look-up": outcome(lambda: socket.getaddrinfo("tracker.example.invalid", 443)),
    "old look-up": outcome(lambda: socket.gethostbyname("tracker.example.invalid")),
    "named look-up": outcome(lambda: socket.getaddrinfo("hub.example.INVALID", 443)),
    "loopback": outcome(lambda: tcp("127.0.0.1", listener.getsockname()[1])),
    "localhost": outcome(lambda: socket.create_connection(("localhost", listener.getsockname()[1])).close()),
    "mapped": outcome(lambda: tcp("::ffff:192.0.2.8", family=socket.AF_INET6)),
    "allowed": guard.allowed, "refused": guard.refused, "hosts": sorted(guard.hosts),
}))
""")
    for name in ("named", "loopback", "localhost", "named look-up"):
        assert result[name] == "passed", name
    for name in ("other", "thread", "udp", "look-up", "old look-up", "mapped"):
        assert str(result[name]).startswith("refused: "), name
    message = str(result["other"])
    assert "192.0.2.8" in message and "192.0.2.7" in message and "hub.example.invalid" in message
    assert result["hosts"] == ["192.0.2.7", "hub.example.invalid"]
    assert result["refused"] == {"192.0.2.8": 4, "tracker.example.invalid": 2}
    allowed = result["allowed"]
    assert isinstance(allowed, dict) and allowed["192.0.2.7"] == 1 and allowed["127.0.0.1"] >= 1


def test_the_address_of_a_named_host_passes_and_a_later_guard_replaces_the_list() -> None:
    result = run("""
name = socket.gethostname()
address = socket.gethostbyname(name)
listener = socket.create_server((address, 0)); port = listener.getsockname()[1]
guard_egress([name])
first = outcome(lambda: socket.create_connection((name, port)).close())
before_look_up = outcome(lambda: tcp(address, port))
guard_egress([])
second = outcome(lambda: tcp(address, port))
print(json.dumps({"address": address, "first": first, "before": before_look_up, "second": second}))
""")
    assert result["first"] == result["before"] == "passed"
    if not str(result["address"]).startswith("127."):  # some machines call themselves loopback
        assert str(result["second"]).startswith("refused: ")
        assert "none" in str(result["second"])


def test_libraries_meet_the_guard_too() -> None:
    result = run("""
import urllib.request
guard = guard_egress([])
answer = outcome(lambda: urllib.request.urlopen("http://192.0.2.9/telemetry", timeout=1))
print(json.dumps({"answer": answer, "refused": guard.refused}))
""")
    assert str(result["answer"]).startswith("refused: ") and result["refused"] == {"192.0.2.9": 1}


def test_environment_is_set_before_the_hub_client_reads_it() -> None:
    clean = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "")
    result = run(
        """
import os
from sovtune.network import air_gap_environment
os.environ.pop("TOKENIZERS_PARALLELISM", None)
late = air_gap_environment(offline=True)
from huggingface_hub import constants as c
print(json.dumps({
    "late": late, "offline": c.HF_HUB_OFFLINE,
    "telemetry": c.HF_HUB_DISABLE_TELEMETRY, "xet": c.HF_HUB_DISABLE_XET,
    "implicit": c.HF_HUB_DISABLE_IMPLICIT_TOKEN, "conversion": os.environ["DISABLE_SAFETENSORS_CONVERSION"],
    "wandb": os.environ["WANDB_MODE"], "tokenizers": os.environ["TOKENIZERS_PARALLELISM"],
}))
""",
        WANDB_MODE="offline", HF_HUB_DISABLE_TELEMETRY="0", DO_NOT_TRACK="0", HF_HUB_DISABLE_XET="0", **clean,
    )  # fmt: skip
    assert result == {
        "late": [], "offline": True, "telemetry": True, "xet": True, "implicit": True, "conversion": "1",
        "wandb": "offline", "tokenizers": "false",
    }  # fmt: skip


def test_environment_set_too_late_is_reported() -> None:
    result = run(
        """
from huggingface_hub import constants
from sovtune.network import air_gap_environment
print(json.dumps({"late": air_gap_environment(offline=False), "again": air_gap_environment(offline=False)}))
""",
        HF_HUB_DISABLE_XET="0",
    )
    late = result["late"]
    assert isinstance(late, list) and "HF_HUB_DISABLE_XET" in late and "HF_HUB_OFFLINE" not in late
    assert result["again"] == []


@pytest.mark.parametrize(
    "endpoint", ["hub.example.org", "ftp://x.org", "https://", "https://h:port", "https://h?a=b", ""]
)
def test_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match="is no endpoint"):
        allowed_hosts([endpoint])


def test_endpoint_with_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(UsageError) as caught:
        allowed_hosts(["https://minsu:geheim@hub.example.org"])
    assert "geheim" not in str(caught.value)


def test_hosts_have_one_spelling() -> None:
    assert allowed_hosts(["https://HUB.Example.org.:8443/p", "http://[::1]:80", "https://한국.example"]) == {
        "hub.example.org", "::1", "xn--3e0b707e.example",
    }  # fmt: skip
