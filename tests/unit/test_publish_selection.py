"""What leaves the machine: at most the allow-list, nothing unsafe, no secret, no local path; dir: targets."""

import os
import shutil
import socket
import tempfile
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from run_folder import PUBLISHED, adapter_config, eval_json, make_run, safetensors
from sovtune.errors import GateFailed, PublishFailed, UsageError
from sovtune.publish import publish
from sovtune.records import PublishReceipt, read_record
from sovtune.release import FROM_ADAPTER, FROM_RUN, UNSAFE_SUFFIXES, may_be_published, select

HF_TOKEN = "hf_" + "aB3dE6gH9j" * 4


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "tiny-ko")


def refusal(run_dir: Path) -> str:
    """The text of the refusal."""
    with pytest.raises(UsageError) as caught:
        select(run_dir)
    return str(caught.value)


def test_exactly_the_listed_files_are_selected(run_dir: Path) -> None:
    files = select(run_dir)
    assert {file.name for file in files} == PUBLISHED
    by_name = {file.name: file for file in files}
    assert by_name["README.md"].content == (run_dir / "README.md").read_bytes()  # not adapter/README.md
    sums = by_name["SHA256SUMS"].content
    assert sums is not None
    lines = dict(reversed(line.split("  ")) for line in sums.decode().splitlines())
    assert lines == {file.name: file.sha256 for file in files if file.name != "SHA256SUMS"}
    weights = (run_dir / "adapter/adapter_model.safetensors").read_bytes()
    assert lines["adapter_model.safetensors"] == sha256(weights).hexdigest()


def outcome(run_dir: Path) -> tuple[set[str], list[str]]:
    """The selected names, or the problems."""
    try:
        return {file.name for file in select(run_dir)}, []
    except UsageError as error:
        return set(), error.what.splitlines()[1:]


NAMES = st.one_of(
    st.sampled_from([name.replace("*", "") for name in (*FROM_RUN, *FROM_ADAPTER)]),
    st.sampled_from(
        ["LICENSE.py", "NOTICE.pt", "LICENSE-ko.txt", "training_args.bin", "modeling_x.py", "x.pkl"]
    ),
    st.text(alphabet="abcLICENSE._-한ع", min_size=1, max_size=12).filter(lambda name: name.strip(".") != ""),
)


@settings(derandomize=True, max_examples=50, deadline=None)
@given(
    extra=st.dictionaries(
        st.tuples(st.sampled_from(["", "adapter", "checkpoints/step-1"]), NAMES), st.booleans()
    )
)
def test_no_tree_makes_the_selection_leave_the_allow_list(extra: dict[tuple[str, str], bool]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = make_run(Path(scratch) / "run")
        for (folder, name), is_folder in extra.items():
            path = run_dir / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                continue
            if is_folder:
                path.mkdir()
            else:
                path.write_text("{}")
        names, problems = outcome(run_dir)
    # Only what a pattern of the list would take may be refused.
    assert all("is not a regular file" in problem or "run code" in problem for problem in problems), problems
    assert problems or names >= PUBLISHED
    for name in names:
        assert may_be_published(name) and "/" not in name and not name.endswith(UNSAFE_SUFFIXES)


TEXT_FILES = [
    "README.md",
    "eval.json",
    "recipe.lock.yaml",
    "report.html",
    "LICENSE",
    "adapter/chat_template.jinja",
]


@settings(derandomize=True, max_examples=30, deadline=None)
@given(
    name=st.sampled_from([*TEXT_FILES, "adapter/tokenizer.json"]),
    leak=st.sampled_from(
        [(HF_TOKEN, "Hugging Face token"), ("https://a:geheim@h.org", "URL with a password")]
    ),
    lines=st.integers(0, 30),
)
def test_planted_secret_refuses_by_file_line_and_kind_only(
    name: str, leak: tuple[str, str], lines: int
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run_dir = make_run(Path(scratch) / "run")
        (run_dir / name).write_text("줄\n" * lines + f"x {leak[0]} y\n", encoding="utf-8")
        message = refusal(run_dir)
    assert f"{name}:{lines + 1}: {leak[1]}" in message
    assert leak[0] not in message


@pytest.mark.parametrize("name", TEXT_FILES)
def test_local_path_refuses(run_dir: Path, name: str) -> None:
    (run_dir / name).write_text("\nbase: /home/minsu/models/base\n")
    message = refusal(run_dir)
    assert f"{name}:2: local path" in message and "minsu" not in message


def test_own_folder_host_and_metadata_of_weights_refuse(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-7.lab.kr")
    (run_dir / "README.md").write_text(f"made in {run_dir}\non gpu-7.lab.kr\n")
    weights = safetensors().replace(b'{"format": "pt"}', b'{"f":"/root/ab"}')
    (run_dir / "adapter/adapter_model.safetensors").write_bytes(weights)
    message = refusal(run_dir)
    for line in (
        "README.md:1: local path",
        "README.md:2: host name",
        "adapter/adapter_model.safetensors:1: local path",
    ):
        assert line in message


def test_the_publishing_token_itself_is_looked_for(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TOKEN", "losung-wort-17")
    (run_dir / "data.json").write_text('{"note": "losung-wort-17"}')
    with pytest.raises(UsageError) as caught:
        publish(run_dir, "hub:org/x", endpoint="http://127.0.0.1:9", token_env="LAB_TOKEN", dry_run=True)
    assert "data.json:1: credential of this process" in str(caught.value)
    assert "losung" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("README.md", "sovtune card"),
        ("eval.json", "sovtune eval"),
        ("adapter", "sovtune train"),
        ("adapter/adapter_config.json", "sovtune train"),
    ],
)
def test_missing_file_names_the_command_that_makes_it(run_dir: Path, name: str, command: str) -> None:
    path = run_dir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    message = refusal(run_dir)
    assert "missing" in message and command in message


def test_pickled_weights_are_refused_by_name(run_dir: Path) -> None:
    (run_dir / "adapter/adapter_model.safetensors").rename(run_dir / "adapter/adapter_model.bin")
    assert "adapter/adapter_model.bin: only safetensors" in refusal(run_dir)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04pickle", safetensors()[:-1], safetensors() + b"x", b"\xff" * 64]
)
def test_weights_that_are_no_whole_safetensors_file_are_refused(run_dir: Path, content: bytes) -> None:
    (run_dir / "adapter/adapter_model.safetensors").write_bytes(content)
    assert "adapter/adapter_model.safetensors: is " in refusal(run_dir)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_model_name_or_path": "/models/base"}, "Hub id"),
        ({"base_model_name_or_path": "../base/x"}, "Hub id"),
        ({"base_model_name_or_path": ""}, "Hub id"),
        ({"base_model_name_or_path": None}, "Hub id"),
        ({"revision": None}, "revision"),
        ({"auto_mapping": {"base_model_class": "X", "parent_library": "os"}}, "auto_mapping"),
        ({"megatron_config": {"x": 1}}, "megatron_config"),
    ],
)
def test_adapter_config_must_be_loadable_by_anyone(
    run_dir: Path, changes: dict[str, object], said: str
) -> None:
    (run_dir / "adapter/adapter_config.json").write_text(adapter_config(**changes))
    assert f"adapter/adapter_config.json: {said}" in refusal(run_dir).replace(
        "base_model_name_or_path must be a ", ""
    )


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00"])
def test_broken_adapter_config_is_refused(run_dir: Path, text: str) -> None:
    (run_dir / "adapter/adapter_config.json").write_text(text)
    assert "adapter/adapter_config.json: is not a JSON object" in refusal(run_dir)


def test_remote_code_in_the_tokenizer_is_refused(run_dir: Path) -> None:
    (run_dir / "adapter/tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["x.T", null]}}')
    assert "tokenizer_config.json: auto_map" in refusal(run_dir)


def test_links_out_of_the_run_folder_circles_and_pipes_are_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.md").write_text("secret plans")
    for name, target in (("README.md", tmp_path / "outside.md"), ("LICENSE", run_dir / "NOTICE")):
        (run_dir / name).unlink()
        (run_dir / name).symlink_to(target)
    (run_dir / "NOTICE").symlink_to(run_dir / "LICENSE")
    os.mkfifo(run_dir / "plan.json")
    message = refusal(run_dir)
    assert "README.md: is a link that leads out" in message
    assert "LICENSE: cannot be read" in message and "NOTICE: cannot be read" in message
    assert "plan.json: is not a regular file" in message
    assert "secret plans" not in message


def test_a_link_inside_the_run_folder_is_followed(run_dir: Path) -> None:
    (run_dir / "adapter").rename(run_dir / "best")
    (run_dir / "adapter").symlink_to("best")
    assert {file.name for file in select(run_dir)} == PUBLISHED


def test_text_that_is_not_utf8_is_refused(run_dir: Path) -> None:
    (run_dir / "report.html").write_bytes("보고서".encode("euc-kr"))
    assert "report.html: is not UTF-8" in refusal(run_dir)


def test_failed_gate_stops_publishing(run_dir: Path) -> None:
    (run_dir / "eval.json").write_text(eval_json(passed=False))
    with pytest.raises(GateFailed, match=r"english_loss: 9\.5, limit 3"):
        select(run_dir)


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run folder"):
        select(tmp_path / "nothing")


@pytest.mark.parametrize(
    "to", ["", "dir:", "hub:x", "hub:a/b/c", "s3:bucket", "hub:a/../b", "https://x.org/a/b"]
)
def test_malformed_target(run_dir: Path, to: str) -> None:
    with pytest.raises(UsageError, match="is no target"):
        publish(run_dir, to, endpoint="http://127.0.0.1:9", dry_run=True)


@pytest.mark.parametrize("tag", ["", "..", "../x", "a/b", "-x", "main", "v1 0", "x.lock", "v1\n"])
def test_malformed_tag(run_dir: Path, tmp_path: Path, tag: str) -> None:
    with pytest.raises(UsageError, match="is no name for a version"):
        publish(run_dir, f"dir:{tmp_path}/out", tag=tag)


def tree(folder: Path) -> dict[str, bytes]:
    """Path -> content of every file below, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_dir_target_holds_the_version_and_a_second_run_finds_nothing_to_do(
    run_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "share"
    receipt = publish(run_dir, f"dir:{out}", tag="v1.0.0")
    assert receipt.verified and receipt.repo_id is None and receipt.commit is None
    written = tree(out)
    assert {path.removeprefix("tiny-ko/v1.0.0/") for path in written} == PUBLISHED
    assert {file.path: file.sha256 for file in receipt.files} == {
        path.removeprefix("tiny-ko/v1.0.0/"): sha256(content).hexdigest() for path, content in written.items()
    }
    assert read_record(PublishReceipt, run_dir / "receipt.json") == receipt
    again = publish(run_dir, f"dir:{out}", tag="v1.0.0")
    assert "nothing to do" in again.notes[0] and tree(out) == written
    publish(run_dir, f"dir:{out}", tag="v1.0.1")
    assert {path.split("/")[1] for path in tree(out)} == {"v1.0.0", "v1.0.1"}


def test_dir_target_never_moves_a_tag(run_dir: Path, tmp_path: Path) -> None:
    publish(run_dir, f"dir:{tmp_path}/share")
    before = tree(tmp_path / "share")
    (run_dir / "README.md").write_text("---\nlicense: mit\n---\n")
    with pytest.raises(UsageError, match=r"other content: README\.md, SHA256SUMS") as caught:
        publish(run_dir, f"dir:{tmp_path}/share")
    assert "choose another --tag" in str(caught.value)
    assert tree(tmp_path / "share") == before


def test_dir_target_that_cannot_be_written_is_named_and_left_clean(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "share").write_text("a file")
    with pytest.raises(PublishFailed, match="cannot write the version"):
        publish(run_dir, f"dir:{tmp_path}/share")
    assert not (run_dir / "receipt.json").exists()


def test_dir_target_leaves_nothing_half_written(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PublishFailed, match="No space left"):
        publish(run_dir, f"dir:{tmp_path}/share")
    assert tree(tmp_path / "share") == {}


def test_dry_run_writes_nothing(run_dir: Path, tmp_path: Path) -> None:
    before = tree(run_dir)
    receipt = publish(run_dir, f"dir:{tmp_path}/share", dry_run=True)
    assert receipt.dry_run and not receipt.verified
    assert {file.path for file in receipt.files} == PUBLISHED
    assert tree(run_dir) == before and not (tmp_path / "share").exists()
