"""Publishing with the real Hub client to the loopback Hub, through every kind of interruption."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import HubServer
from hub_store import PHASES
from run_folder import PUBLISHED, make_run
from sovtune.errors import PublishFailed, UsageError
from sovtune.publish import publish
from sovtune.records import PublishReceipt, read_record
from sovtune.release import select

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


def wanted(run_dir: Path) -> dict[str, str]:
    return {file.name: file.sha256 for file in select(run_dir)}


def repo(hub: HubServer, name: str = REPO) -> dict[str, object]:
    record: dict[str, object] = hub.store.repos()[name]
    return record


def assert_whole_or_none(hub: HubServer, run_dir: Path) -> None:
    """The invariant of every interruption: main is old or whole, and a tag names the whole version."""
    assert hub.store.files_at(REPO, "main") in (None, {}, wanted(run_dir))
    assert hub.store.files_at(REPO, TAG) in (None, wanted(run_dir))


def test_first_publish_is_one_commit_tagged_private_and_verified(hub: HubServer, run_dir: Path) -> None:
    said: list[str] = []
    receipt = send(run_dir, hub, say=said.append)
    assert hub.store.files_at(REPO, TAG) == wanted(run_dir) and set(wanted(run_dir)) == PUBLISHED
    record = repo(hub)
    assert record["private"] is True and record["tags"] == {TAG: receipt.commit}
    assert len(record["commits"]) == 2  # type: ignore[arg-type]  # the empty beginning, and ours
    assert receipt.verified and receipt.private and receipt.repo_id == REPO
    assert {file.path: file.sha256 for file in receipt.files} == wanted(run_dir)
    assert read_record(PublishReceipt, run_dir / "receipt.json") == receipt
    # Weights went through LFS, nothing was asked of routes that many Hubs lack, and all was read back.
    paths = [request.path for request in hub.log]
    assert any(request.phase == "put" for request in hub.log)
    assert not any("validate-yaml" in path or "xet" in path or "agent-harnesses" in path for path in paths)
    assert {path.rsplit("/", 1)[1] for path in paths if "/resolve/" in path} == PUBLISHED
    assert [line.split()[0] for line in said] == ["creating", "sending", "reading", "setting"]


def test_large_weights_go_up_in_parts(tmp_path: Path, run_dir: Path) -> None:
    with HubServer(tmp_path / "hub", tokens={TOKEN: "minsu"}, chunk_size=100) as hub:
        send(run_dir, hub)
        assert sum(request.phase == "put" for request in hub.log) > 2
        assert hub.store.files_at(REPO, TAG) == wanted(run_dir)


def test_second_publish_has_nothing_to_do(hub: HubServer, run_dir: Path) -> None:
    first = send(run_dir, hub)
    before, hub.log[:] = hub.store.repos(), []
    second = send(run_dir, hub)
    assert second.commit == first.commit and any("nothing to do" in note for note in second.notes)
    assert hub.store.repos() == before and {request.method for request in hub.log} == {"GET"}


def test_dry_run_sends_nothing_and_needs_no_token(
    hub: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOVTUNE_HUB_TOKEN")
    receipt = send(run_dir, hub, dry_run=True)
    assert hub.log == [] and receipt.dry_run and not receipt.verified and receipt.commit is None
    assert {file.path: file.sha256 for file in receipt.files} == wanted(run_dir)
    assert any("SOVTUNE_HUB_TOKEN is not set" in note for note in receipt.notes)
    assert not (run_dir / "receipt.json").exists()


@pytest.mark.parametrize("phase", PHASES)
def test_one_lost_connection_is_survived(
    hub: HubServer, run_dir: Path, phase: str, pauses: list[float]
) -> None:
    hub.faults.plant(phase)
    receipt = send(run_dir, hub)
    record = repo(hub)
    assert record["tags"] == {TAG: receipt.commit} and len(record["commits"]) == 2  # type: ignore[arg-type]
    assert hub.store.files_at(REPO, TAG) == wanted(run_dir)
    assert sum(pauses) < 10


@pytest.mark.parametrize("status", [None, 503])
@pytest.mark.parametrize("phase", PHASES)
def test_lasting_failure_leaves_whole_or_none_and_a_rerun_repairs(
    hub: HubServer, run_dir: Path, phase: str, status: int | None, pauses: list[float]
) -> None:
    hub.faults.plant(phase, times=-1, status=status)
    if phase in ("commit-after-store", "tag-after-store"):
        # Done at the first try; the client finds that out although every answer is lost.
        send(run_dir, hub)
    else:
        with pytest.raises(PublishFailed) as caught:
            send(run_dir, hub)
        assert caught.value.why and caught.value.fix
        assert not (run_dir / "receipt.json").exists()
    assert sum(pauses) < 10
    assert_whole_or_none(hub, run_dir)
    hub.faults.heal()
    receipt = send(run_dir, hub)
    record = repo(hub)
    assert record["tags"] == {TAG: receipt.commit} and len(record["commits"]) == 2  # type: ignore[arg-type]
    assert hub.store.files_at(REPO, TAG) == wanted(run_dir)


def test_the_hub_dying_at_any_request_leaves_whole_or_none(tmp_path: Path, run_dir: Path) -> None:
    with HubServer(tmp_path / "straight", tokens={TOKEN: "minsu"}) as hub:
        send(run_dir, hub)
        log = [(request.method, request.phase) for request in hub.log]
    assert {phase for _, phase in log} >= {
        "create",
        "preupload",
        "lfs-batch",
        "put",
        "verify",
        "tag",
        "readback",
    }
    # Of a row of reads one is enough, but each request that changes something is cut.
    numbers = [n for n, this in enumerate(log, 1) if n == len(log) or this != log[n] or this[0] != "GET"]
    for number in numbers:
        with HubServer(tmp_path / f"hub-{number}", tokens={TOKEN: "minsu"}) as hub:
            hub.faults.plant(request=number, times=-1)
            with pytest.raises(PublishFailed, match="lost the line"):
                send(run_dir, hub)
            assert_whole_or_none(hub, run_dir)
            hub.faults.heal()
            receipt = send(run_dir, hub)
            assert repo(hub)["tags"] == {TAG: receipt.commit}
            assert hub.store.files_at(REPO, TAG) == wanted(run_dir)


def _somebody_commits(hub: HubServer) -> None:
    with hub.store.edit() as state:
        record = state["repos"][REPO]
        entry = hub.store.entry(hub.store.add_blob(b"theirs\n"), lfs=False)
        hub.store.new_commit(record, "main", {"README.md": entry}, "somebody else")


@pytest.mark.parametrize("phase", ["commit-before", "preupload"])
def test_commit_of_somebody_else_is_never_overwritten(hub: HubServer, run_dir: Path, phase: str) -> None:
    hub.faults.plant(phase, act=lambda: _somebody_commits(hub))
    with pytest.raises(PublishFailed, match="was changed by somebody else"):
        send(run_dir, hub)
    theirs = hub.store.files_at(REPO, "main")
    assert theirs is not None and set(theirs) == {"README.md"} and repo(hub)["tags"] == {}
    send(run_dir, hub)  # looked at and run again: ours goes on top of theirs
    assert hub.store.files_at(REPO, TAG) == wanted(run_dir)


def test_tag_set_by_somebody_else_meanwhile_is_refused(hub: HubServer, run_dir: Path) -> None:
    def somebody_tags() -> None:
        with hub.store.edit() as state:
            record = state["repos"][REPO]
            ours = record["commits"][record["branches"]["main"]]["parent"]
            record["tags"][TAG] = ours

    hub.faults.plant("tag", act=somebody_tags)
    with pytest.raises(PublishFailed, match="does not point at this version"):
        send(run_dir, hub)


def test_a_tag_never_moves(hub: HubServer, run_dir: Path) -> None:
    send(run_dir, hub)
    before = hub.store.repos()
    (run_dir / "README.md").write_text("---\nlicense: mit\n---\n")
    with pytest.raises(UsageError, match=r"other content: README\.md") as caught:
        send(run_dir, hub)
    assert "choose another --tag" in str(caught.value) and hub.store.repos() == before


def test_next_version_drops_what_it_no_longer_has_and_leaves_foreign_files(
    hub: HubServer, run_dir: Path
) -> None:
    send(run_dir, hub)
    with hub.store.edit() as state:
        record = state["repos"][REPO]
        files = dict(record["commits"][record["branches"]["main"]]["files"])
        files["logo.png"] = hub.store.entry(hub.store.add_blob(b"png"), lfs=False)
        hub.store.new_commit(record, "main", files, "add a logo")
    (run_dir / "train.json").unlink()
    receipt = send(run_dir, hub, tag="v1.1.0")
    assert any("left alone in the repository: logo.png" in note for note in receipt.notes)
    now = hub.store.files_at(REPO, "v1.1.0")
    assert now is not None and set(now) == (PUBLISHED - {"train.json"}) | {"logo.png"}
    old = hub.store.files_at(REPO, TAG)
    assert old is not None and "train.json" in old


def test_public_repository_is_refused_for_a_private_publish(hub: HubServer, run_dir: Path) -> None:
    send(run_dir, hub, private=False)
    assert repo(hub)["private"] is False
    with pytest.raises(UsageError, match="is public, but a private publish"):
        send(run_dir, hub, tag="v1.0.1")
    assert repo(hub)["tags"].keys() == {TAG}  # type: ignore[attr-defined]


def test_a_hub_that_creates_public_repositories_gets_no_content(
    hub: HubServer, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_public() -> None:
        with hub.store.edit() as state:
            record = {"private": False, "gated": False, "branches": {}, "tags": {}, "commits": {}}
            state["repos"][REPO] = record
            hub.store.new_commit(record, "main", {}, "initial commit")

    hub.faults.plant("create", act=make_public)
    with pytest.raises(UsageError, match="is public"):
        send(run_dir, hub)
    assert not any(request.phase in ("put", "commit-before") for request in hub.log)


def test_reading_back_other_bytes_sets_no_tag(hub: HubServer, run_dir: Path) -> None:
    def corrupt() -> None:
        blob = hub.store.blobs / wanted(run_dir)["data.json"]
        blob.write_bytes(b"[]\n")

    hub.faults.plant("readback", act=corrupt)
    with pytest.raises(PublishFailed, match=r"read back differently: data\.json"):
        send(run_dir, hub)
    assert repo(hub)["tags"] == {}


def test_private_and_gated_repositories_are_closed_to_others(hub: HubServer, run_dir: Path) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    send(run_dir, hub)
    stranger = HfApi(endpoint=hub.url, token=False)
    with pytest.raises(RepositoryNotFoundError) as caught:
        stranger.model_info(REPO)
    assert caught.value.response.status_code == 401
    hub.tokens["other"] = "stranger"
    hub.orgs = ()
    with pytest.raises(RepositoryNotFoundError) as caught:
        HfApi(endpoint=hub.url, token="other").model_info(REPO, revision=TAG)
    assert caught.value.response.status_code == 404
    hub.orgs = ("org",)
    HfApi(endpoint=hub.url, token=TOKEN).update_repo_settings(REPO, visibility="public", gated="manual")
    assert stranger.model_info(REPO).gated == "manual"
    with pytest.raises(GatedRepoError):
        list(stranger.list_repo_tree(REPO))
    with pytest.raises(HfHubHTTPError):
        stranger.create_tag(REPO, tag="mine")
