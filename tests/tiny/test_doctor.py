"""doctor on this machine: the NF4 self-test is real, every trouble has a fix, no host is asked unasked."""

import json
import math
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sovtune import device_checks, doctor
from sovtune.device_checks import Check, check_cpu, check_nf4, check_threads, judge_nf4, measure_nf4
from sovtune.doctor import run_checks, table, to_json
from sovtune.errors import UsageError


@pytest.fixture
def no_contact(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every connection or name look-up, which would be one too many."""
    contacts: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        contacts.append(arguments)
        raise OSError("contacted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return contacts


@pytest.fixture
def server() -> Iterator[str]:
    """A loopback server: /missing gives 404, /moved redirects to a dead port, /broken 500, the rest 200."""
    codes = {"/missing": 404, "/moved": 302, "/broken": 503}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            assert "Authorization" not in self.headers
            self.send_response(codes.get(self.path, 200))
            if self.path == "/moved":
                self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_nf4_really_runs_and_is_right() -> None:
    errors = measure_nf4("cpu")
    assert 0.08 < errors.rounding < 0.11  # NF4 on normal weights; 8 bits would give 0.005, fp4 0.13
    assert 0 < errors.forward < 0.01  # bf16 is not exact: a zero would mean that nothing was computed
    assert 0 < errors.backward < 0.01
    assert measure_nf4("cpu", seed=1) != errors
    assert check_nf4("cpu").status == "ok"


@pytest.mark.parametrize(
    ("name", "value"),
    [("forward", 0.03), ("backward", 0.5), ("rounding", 0.3), ("rounding", 0.0), ("backward", math.nan)],
)
def test_wrong_arithmetic_is_reported(name: str, value: float) -> None:
    check = judge_nf4(replace(measure_nf4("cpu"), **{name: value}), "cpu")
    assert check.status == "fail"
    assert "expected" in check.value
    assert "bitsandbytes" in check.fix


def test_a_device_that_is_not_there_is_a_failure_with_a_way_out() -> None:
    check = check_nf4("xpu")
    assert check.status == "fail"
    assert "does not work on xpu" in check.value
    assert "base.quantisation.kind=none" in check.fix


def test_nf4_is_not_tried_where_it_would_fetch_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kernels.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert check_nf4("cpu").status == "warn"
    assert doctor.check_kernels().fix == "python -m pip uninstall kernels"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert check_nf4("cpu").status == "ok"


def test_json_has_one_shape_and_every_trouble_a_fix(no_contact: list[object]) -> None:
    checks = run_checks()
    answer = json.loads(json.dumps(to_json(checks), allow_nan=False))
    assert set(answer) == {"ok", "checks"}
    assert all(list(entry) == ["name", "status", "value", "fix"] for entry in answer["checks"])
    assert all(bool(entry["fix"]) == (entry["status"] != "ok") for entry in answer["checks"])
    assert answer["ok"] == all(entry["status"] != "fail" for entry in answer["checks"])
    names = [entry["name"] for entry in answer["checks"]]
    wanted = ["python", "packages", "torch", "cpu", "threads", "nf4", "memory", "cache", "working folder"]
    wanted += ["temporary files", "encoding", "pip", "kernels", "tokens", "endpoints"]
    assert [name for name in names if name in wanted] == wanted
    assert no_contact == []
    assert checks[-1] == Check(name="endpoints", status="ok", value="none given, nothing was contacted")


def test_the_table_puts_the_fix_below() -> None:
    found = table(
        [Check(name="a", status="ok", value="1"), Check(name="long", status="fail", value="2", fix="do")]
    )
    assert found == "ok    a     1\nfail  long  2\n            fix: do"
    assert not to_json([Check(name="a", status="fail", value="", fix="do")])["ok"]


def test_an_endpoint_nobody_listens_at_fails_with_a_fix() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}"
        check = doctor.check_endpoint(endpoint)
    assert (check.status, check.value) == ("fail", "cannot be reached: Connection refused")
    assert check.fix.startswith(f"curl --head --max-time 3 {endpoint}")


def test_an_endpoint_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        check = doctor.check_endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert (check.status, check.value) == ("fail", "cannot be reached: no answer within 0.2 s")


def test_endpoints_that_answer(server: str) -> None:
    assert doctor.check_endpoint(server).status == "ok"
    assert doctor.check_endpoint(server + "/missing").value.startswith("HTTP 404")
    moved = doctor.check_endpoint(server + "/moved")  # not followed: the dead port is never asked
    assert (moved.status, moved.value[:8]) == ("ok", "HTTP 302")
    broken = doctor.check_endpoint(server + "/broken")
    assert (broken.status, bool(broken.fix)) == ("fail", True)


@pytest.mark.parametrize("endpoint", ["hub.example.org", "ftp://x", "https://me:secret@hub.example.org"])
def test_a_wrong_endpoint_is_refused_before_anything_is_done(endpoint: str, no_contact: list[object]) -> None:
    with pytest.raises(UsageError) as caught:
        run_checks([endpoint])
    assert "secret" not in str(caught.value)
    assert no_contact == []


def test_an_address_that_is_not_ascii_is_reported() -> None:
    assert doctor.check_endpoint("http://127.0.0.1:9/모델").status == "fail"


def test_tokens_are_named_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert doctor.check_tokens().status == "ok"
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    (tmp_path / "token").write_text("hf_verysecret")
    check = doctor.check_tokens()
    assert check.status == "warn"
    assert "HF_TOKEN" in check.value
    assert check.fix == "unset HF_TOKEN; hf auth logout"
    assert "verysecret" not in check.value + check.fix


def test_packages_outside_their_range_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "probe-1.0.dist-info"
    folder.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        "Name: probe",
        "Version: 1.0",
        "Requires-Dist: numpy<1",
        "Requires-Dist: torch",
    ]
    lines += ["Requires-Dist: no-such-package>=2", 'Requires-Dist: not-wanted; extra == "dev"']
    (folder / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    fine, *wrong = doctor.check_packages("probe")
    assert fine.value.startswith("torch ")
    assert [(check.name, check.status) for check in wrong] == [("numpy", "fail"), ("no-such-package", "fail")]
    assert [check.fix for check in wrong] == [
        "python -m pip install 'numpy<1'",
        "python -m pip install 'no-such-package>=2'",
    ]
    (absent,) = doctor.check_packages("never-installed")
    assert (absent.status, absent.fix) == ("fail", "python -m pip install .")
    assert all(check.status == "ok" for check in doctor.check_packages())


def test_bf16_instructions_are_read_from_the_cpu(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    assert "unknown" in check_cpu(info).value
    info.write_text("processor: 0\nflags\t\t: fpu sse avx512_bf16 amx_bf16\n")
    assert check_cpu(info).value.endswith("amx_bf16, avx512_bf16")
    info.write_text("model name : avx512_bf16 lookalike\nflags\t\t: fpu sse avx2\n")
    check = check_cpu(info)
    assert (check.status, "compute=float32" in check.fix) == ("warn", True)


def test_threads_that_do_not_fit_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_checks, "usable_cores", lambda: 4)
    for text, status in (("4", "ok"), ("1", "warn"), ("8", "warn"), ("many", "warn"), ("", "ok")):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        check = check_threads()
        assert (check.status, check.fix) == (status, "" if status == "ok" else "export OMP_NUM_THREADS=4")


def test_folders_without_room_or_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "not" / "made" / "yet"
    assert doctor.check_disk("cache", deep, "fix").value.endswith(str(deep))
    monkeypatch.setattr(doctor, "LOW_DISK", 2**60)
    assert doctor.check_disk("cache", deep, "fix").status == "warn"
    monkeypatch.setattr(doctor, "NO_DISK", 2**60)
    assert doctor.check_disk("cache", deep, "fix") == replace(
        doctor.check_disk("cache", deep, "fix"), status="fail", fix="fix"
    )
    file = tmp_path / "file"
    file.write_text("")
    assert "cannot be written" in doctor.check_disk("cache", file / "below", "fix").value


def test_little_memory_and_no_place_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LOW_MEMORY", 2**60)
    assert (doctor.check_memory().status, "sovtune plan" in doctor.check_memory().fix) == ("warn", True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    check = doctor.check_temporary()
    assert (check.status, check.fix) == ("fail", "export TMPDIR=/a/folder/you/can/write")
