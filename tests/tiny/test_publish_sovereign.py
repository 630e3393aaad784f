"""Who learns what: only the endpoint is asked, the token stands in one header, peft gets the same weights."""

import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import HubServer
from hub_store import PHASES
from run_folder import PUBLISHED, make_run
from sovtune.errors import EnvironmentFault, PublishFailed, SovtuneError, UsageError
from sovtune.publish import publish
from sovtune.records import PublishReceipt

REPO, TAG, TOKEN = "org/tiny-ko", "v1.0.0", "sov-Tok3n-never-shown-8c1f"


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "tiny-ko")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", tokens={TOKEN: "minsu"}) as server:
        yield server


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between retries, noted instead of slept."""
    noted: list[float] = []
    monkeypatch.setattr("time.sleep", noted.append)
    monkeypatch.setenv("SOVTUNE_HUB_TOKEN", TOKEN)
    return noted


def send(run_dir: Path, hub: HubServer, **how: object) -> PublishReceipt:
    return publish(run_dir, f"hub:{REPO}", endpoint=hub.url, **{"tag": TAG, **how})  # type: ignore[arg-type]


@pytest.mark.parametrize("offline", [False, True])
def test_the_offline_flag_does_not_stop_publishing(
    hub: HubServer, run_dir: Path, offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", False)
    send(run_dir, hub)
    assert not any("xet" in request.path or "harness" in request.path for request in hub.log)


def test_another_endpoint_never_reaches_the_public_hub_or_gets_the_token() -> None:
    import httpx2

    from sovtune.publish_line import Line

    line = Line("https://hub.lab.kr/hf")
    for url in (
        "https://huggingface.co/api/x",
        "https://cdn-lfs.hf.co/x",
        "https://hub.lab.kr/api/agent-harnesses",
    ):
        with pytest.raises(PublishFailed, match="refused to contact"):
            line.check(httpx2.Request("GET", url))
    for url, kept in (
        ("https://hub.lab.kr/hf/api/models", True),
        ("https://hub.lab.kr:8443/hf", False),
        ("http://hub.lab.kr/hf", False),
        ("https://s3.lab.kr/bucket", False),
    ):
        request = httpx2.Request("PUT", url, headers={"Authorization": f"Bearer {TOKEN}"})
        line.check(request)
        assert ("authorization" in request.headers) is kept, url
    assert line.storage_hosts == {"hub.lab.kr", "s3.lab.kr"}
    request = httpx2.Request("GET", "https://hub.lab.kr/x", headers={"Authorization": f"Bearer {TOKEN}"})
    Line("https://HUB.lab.kr:443/hf").check(request)  # the same origin, spelt otherwise
    assert "authorization" in request.headers
    Line("https://huggingface.co").check(httpx2.Request("GET", "https://cdn-lfs.hf.co/x"))


def test_no_endpoint_and_no_token_are_named(
    run_dir: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="needs the address of the Hub"):
        publish(run_dir, f"hub:{REPO}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)  # an ambient token is not ours to use
    with pytest.raises(EnvironmentFault, match="LAB_TOKEN is not set"):
        send(run_dir, hub, token_env="LAB_TOKEN")
    for bad in ("", f"{TOKEN}\n", f'"{TOKEN} "', "토큰"):
        monkeypatch.setenv("LAB_TOKEN", bad)
        with pytest.raises(EnvironmentFault, match="LAB_TOKEN holds no token") as caught:
            send(run_dir, hub, token_env="LAB_TOKEN")
        assert not bad or bad not in str(caught.value)
    assert hub.log == []


def everything(folder: Path) -> str:
    return "\n".join(path.read_text("utf-8", "replace") for path in folder.rglob("*") if path.is_file())


def test_the_token_stands_nowhere_but_in_the_header(
    tmp_path: Path, run_dir: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []

    def attempt(hub: HubServer, **how: object) -> None:
        try:
            shown.append(repr(send(run_dir, hub, say=shown.append, **how)))
        except SovtuneError as error:
            shown.append("".join(traceback.format_exception(error)))

    with HubServer(tmp_path / "hub", tokens={TOKEN: "minsu"}, echo_token=True) as hub:
        attempt(hub)
        hub.faults.plant("readback")
        attempt(hub)  # once more, through a lost connection
        hub.orgs = ()
        attempt(hub, tag="v9")  # the token may not see this repository
        hub.tokens.clear()
        attempt(hub, tag="v9")  # the token is wrong; this Hub repeats it in its answer
        for phase in PHASES:
            hub.tokens[TOKEN], hub.orgs = "minsu", ("org",)
            hub.faults.plant(phase, times=-1)
            attempt(hub, tag=f"v-{phase}")
            hub.faults.heal()
        (run_dir / "NOTICE").write_text("a new file\n")
        attempt(hub, tag="v2", private=False)
        for request in hub.log:
            headers = {name.lower(): value for name, value in request.headers.items()}
            sent = headers.pop("authorization", None)
            assert TOKEN not in request.path + repr(headers)
            assert TOKEN.encode() not in request.body
            # Upload addresses are credentials themselves and need no other.
            expected = None if request.path.startswith("/lfs/") else f"Bearer {TOKEN}"
            assert sent == expected, request
    output = capfd.readouterr()
    assert "lost the line" in "".join(shown) and "***" in "".join(shown)
    for text in (
        "".join(shown),
        output.out,
        output.err,
        caplog.text,
        everything(run_dir),
        everything(tmp_path / "hub"),
    ):
        assert TOKEN not in text
    assert "/lfs/" not in output.err + caplog.text  # no upload addresses either


def test_wrong_token_names_the_variable(hub: HubServer, run_dir: Path) -> None:
    hub.tokens.clear()
    with pytest.raises(PublishFailed) as caught:
        send(run_dir, hub)
    assert "SOVTUNE_HUB_TOKEN" in str(caught.value) and "nothing was changed" in str(caught.value)
    assert hub.store.repos() == {}


def test_the_client_is_given_back_as_it_was(hub: HubServer, run_dir: Path) -> None:
    from huggingface_hub import get_session

    level = logging.getLogger("huggingface_hub").level
    send(run_dir, hub)
    assert type(get_session()).__name__ == "Client"
    assert logging.getLogger("huggingface_hub").level == level


ROUND_TRIP = """
import json, os, sys
from pathlib import Path
from sovtune.network import air_gap_environment, allowed_hosts, guard_egress
air_gap_environment(offline=False)
guard = guard_egress(allowed_hosts([os.environ["HF_ENDPOINT"]]))
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from sovtune.publish import publish

def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)).eval()

run_dir, ids = Path(sys.argv[1]), torch.arange(1, 17)[None]
model = get_peft_model(base(), LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM",
    init_lora_weights=False, base_model_name_or_path="org/tiny-base", revision="0123456789abcdef"))
model.eval().save_pretrained(run_dir / "adapter")
with torch.no_grad():
    plain, before = base()(ids).logits, model(ids).logits
config = json.loads((run_dir / "adapter/adapter_config.json").read_text())
config |= {"base_model_name_or_path": "org/tiny-base", "revision": "0123456789abcdef"}
(run_dir / "adapter/adapter_config.json").write_text(json.dumps(config))
receipt = publish(run_dir, "hub:org/tiny-ko", endpoint=os.environ["HF_ENDPOINT"], tag="v1.0.0")
token = os.environ["SOVTUNE_HUB_TOKEN"]
from huggingface_hub import snapshot_download
folder = Path(snapshot_download("org/tiny-ko", revision="v1.0.0", token=token))
loaded = PeftModel.from_pretrained(base(), "org/tiny-ko", revision="v1.0.0", token=token).eval()
with torch.no_grad():
    after = loaded(ids).logits
print(json.dumps({"equal": torch.equal(before, after), "adapted": float((before - plain).abs().max()),
    "snapshot": sorted(p.name for p in folder.iterdir()), "commit": folder.name, "receipt": receipt.commit,
    "refused": guard.refused}))
"""


def test_published_adapter_loads_by_tag_with_identical_logits(
    hub: HubServer, run_dir: Path, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", ROUND_TRIP, str(run_dir)],
        capture_output=True, text=True, timeout=120, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["equal"] and result["adapted"] > 1e-3
    assert set(result["snapshot"]) - {".gitattributes"} == PUBLISHED
    assert result["commit"] == result["receipt"] and result["refused"] == {}
    assert TOKEN not in done.stdout + done.stderr


def test_server_by_hand_keeps_its_state_for_another_process(
    tmp_path: Path, run_dir: Path, root: Path
) -> None:
    command = [
        sys.executable,
        str(root / "tests/hub_server.py"),
        "--root",
        str(tmp_path / "hub"),
        "--token",
        TOKEN,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        receipt = publish(run_dir, f"hub:{REPO}", endpoint=url)
        process.terminate()
    with HubServer(tmp_path / "hub", tokens={TOKEN: "minsu"}) as hub:
        assert hub.store.repos()[REPO]["tags"] == {TAG: receipt.commit}
        assert any("nothing to do" in note for note in send(run_dir, hub).notes)
