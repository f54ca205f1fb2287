"""`hub`, with the hub's API replaced where the network would begin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qadapter import QAdapterForCausalLM, load_tokenizer
from qadapter.cli.main import main
from qadapter.errors import ArtifactError
from qadapter.export import hub
from qadapter.model.artifact_folder import adapter_file_sha256
from qadapter.model.loading import PACKAGE_COPY_SHA256

MakeArtifact = Callable[..., Path]
PUSHED = [
    "README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "chat_template.jinja",
    "qadapter_config.json", "qadapter_export.json", "tokenizer.json", "tokenizer_config.json",
]  # fmt: skip


class FakeHub:
    """Repositories as sets of files, and what was asked of it."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.repositories: dict[str, set[str]] = {}
        self.public: set[str] = set()
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.token: str | None = None
        self.card = ""
        self.fails: Exception | None = None
        self.loads: Callable[[Path], None] = lambda folder: None

    def __call__(self, token: str | None) -> FakeHub:
        self.token = token
        return self

    def repo_exists(self, repository: str) -> bool:
        return repository in self.repositories

    def repo_info(self, repository: str) -> SimpleNamespace:
        return SimpleNamespace(private=repository not in self.public)

    def list_repo_files(self, repository: str) -> list[str]:
        return sorted(self.repositories[repository])

    def hf_hub_download(self, repository: str, filename: str) -> str:
        assert filename in self.repositories[repository]
        return str(self.cache / filename)

    def create_repo(self, repository: str, **kwargs: Any) -> None:
        self.calls.append(("create_repo", kwargs))
        self.repositories.setdefault(repository, {".gitattributes"})

    def upload_folder(self, *, repo_id: str, folder_path: Path, **kwargs: Any) -> None:
        if self.fails is not None:
            raise self.fails
        self.calls.append(("upload_folder", kwargs))
        files = {str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file()}
        patterns = kwargs["delete_patterns"] or []
        kept = {name for name in self.repositories[repo_id] if not any(fnmatch(name, one) for one in patterns)}
        self.repositories[repo_id] = kept | files
        shutil.copy(folder_path / "qadapter_export.json", self.cache)
        self.card = (folder_path / "README.md").read_text(encoding="utf-8")
        self.loads(folder_path)


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> FakeHub:
    fake = FakeHub(tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(hub, "HfApi", fake)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return fake


@pytest.fixture
def run_folder(make_artifact: MakeArtifact, tmp_path: Path) -> Path:
    """What `qadapter train` leaves: the artifact among checkpoints, logs and the run's arguments."""
    folder = tmp_path / "run"
    shutil.copytree(make_artifact(), folder)
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2" / "optimizer.pt").write_bytes(b"x")
    (folder / "metrics.jsonl").write_text("{}\n")
    (folder / "anchors.jsonl").write_text("{}\n")
    (folder / "config.yaml").write_text(
        "train_file: /home/someone/secret/pairs.jsonl\neval_split: 0.1\nlearning_rate: 0.001\nbase_cache_dir: /home/x\n"
    )
    return folder


def push(folder: Path, *flags: object, to: str = "me/mine") -> int:
    return main(["export", str(folder), "--to", "hub", "--output", to, *map(str, flags)])


def figure(customized: float, base: float | None) -> dict[str, Any]:
    difference = None if base is None else customized - base
    return {"base": base, "customized": customized, "difference": difference, "low": 0.1, "high": 0.2, "items": 7}


def write_eval(path: Path, base_name: str, **more: str) -> Path:
    difference = {"preference.accuracy": figure(0.9, None), "retention.kl_to_base": figure(0.03, None)}
    difference["preference.logp_margin"] = figure(5.0, 1.0)
    policies = [{"strength": 0.0, "answers": "SECRET"}, {"strength": 0.5, "difference": difference}]
    path.write_text(json.dumps({"adapter": "x", "base": base_name, **more, "policies": policies}))
    return path


def test_the_artifact_and_nothing_else_is_pushed(
    fake_hub: FakeHub, run_folder: Path, make_artifact: MakeArtifact
) -> None:
    expected, base = QAdapterForCausalLM.from_pretrained(run_folder).constants, make_artifact().parent / "base"

    def load_as_a_reader(folder: Path) -> None:
        assert QAdapterForCausalLM.from_pretrained(folder, base).constants == expected
        load_tokenizer(folder)

    fake_hub.loads = load_as_a_reader
    assert push(run_folder) == 0
    assert sorted(fake_hub.repositories["me/mine"] - {".gitattributes"}) == PUSHED
    assert fake_hub.token == "hf_secret"
    (created, create), (uploaded, upload) = fake_hub.calls
    assert (created, uploaded) == ("create_repo", "upload_folder")
    assert create["private"] is True
    assert upload["delete_patterns"] is None


def test_a_public_repository_is_filled_only_where_that_is_asked_for(
    fake_hub: FakeHub, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_hub.repositories["me/mine"], fake_hub.public = {".gitattributes"}, {"me/mine"}
    assert push(run_folder) == 2
    assert "me/mine exists and is public" in capsys.readouterr().err
    assert fake_hub.calls == []
    assert push(run_folder, "--public") == 0
    assert sorted(fake_hub.repositories["me/mine"] - {".gitattributes"}) == PUSHED


def test_the_copy_of_the_base_from_the_package_index_is_not_the_hubs(
    fake_hub: FakeHub, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run_folder / "qadapter_config.json"
    config = json.loads(file.read_text())
    config["base"]["weights_sha256"] = PACKAGE_COPY_SHA256
    file.write_text(json.dumps(config))
    assert push(run_folder) == 0
    assert "rounded to 4 bits" in fake_hub.card
    assert "rounded to 4 bits" in capsys.readouterr().err


def test_the_card_says_data_constants_figures_and_how_to_load(fake_hub: FakeHub, run_folder: Path) -> None:
    write_eval(
        run_folder / "eval.json", json.loads((run_folder / "qadapter_config.json").read_text())["base"]["name_or_path"]
    )
    assert push(run_folder) == 0
    card = fake_hub.card
    assert "Preference pairs: `pairs.jsonl`, of which 0.1 (a share) were held out" in card
    assert "| `learning_rate` | 0.001 |" in card
    assert "/home/" not in card
    assert "# Q-Adapter for base\n" in card
    assert "It lay in a folder `base`" in card
    assert "| `alpha_tilde` | 0.3 |" in card
    assert 'QAdapterForCausalLM.from_pretrained("me/mine")' in card
    assert "| gained | base | strength 0.5 |" in card
    assert "| pair accuracy |  | 90.0 % [10.0, 20.0] |" in card
    assert "| log-probability margin | 1.000 | 5.000 +4.000 [+0.100, +0.200] |" in card
    assert "| kept | base | strength 0.5 |" in card
    assert "| KL to the base |  | 0.030 [0.100, 0.200] |" in card
    assert "SECRET" not in card


def test_no_path_of_this_machine_is_published(fake_hub: FakeHub, run_folder: Path, make_artifact: MakeArtifact) -> None:
    here = str(make_artifact().parent)
    assert here in (run_folder / "qadapter_config.json").read_text()
    of_peft = run_folder / "adapter" / "adapter_config.json"
    of_peft.write_text(json.dumps({**json.loads(of_peft.read_text()), "base_model_name_or_path": f"{here}/base"}))
    write_eval(run_folder / "eval.json", f"{here}/base")

    def read(folder: Path) -> None:
        files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".safetensors"]
        texts = {path.name: path.read_text() for path in files}
        assert [name for name, text in texts.items() if here in text or "/home/" in text] == []
        assert json.loads(texts["qadapter_config.json"])["base"]["name_or_path"] == "base"
        with pytest.raises(ArtifactError, match="trained on 'base', by its name a folder where that was") as caught:
            QAdapterForCausalLM.from_pretrained(folder)
        assert "--base DIR, or base= in Python" in str(caught.value)

    fake_hub.loads = read
    assert push(run_folder) == 0


def test_a_base_in_fewer_bits_is_told_and_loaded_so(fake_hub: FakeHub, run_folder: Path) -> None:
    assert push(run_folder) == 0
    assert "load_in" not in fake_hub.card
    file = run_folder / "qadapter_config.json"
    config = json.loads(file.read_text())
    config["base"]["load_in"] = "4bit"
    file.write_text(json.dumps(config))
    with (run_folder / "config.yaml").open("a") as run:
        run.write("load_in: 4bit\n")
    assert push(run_folder, "--overwrite") == 0
    assert 'QAdapterForCausalLM.from_pretrained("me/mine", load_in="4bit"), load_tokenizer("me/mine")' in fake_hub.card
    assert "It was trained on the base in 4bit" in fake_hub.card
    assert "| `load_in` | 4bit |" in fake_hub.card


def test_a_dry_run_shows_everything_and_needs_neither_token_nor_network(
    fake_hub: FakeHub, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert push(run_folder, "--dry-run") == 0
    said = capsys.readouterr().err
    assert "would be pushed to me/mine (private)" in said
    assert all(f"  {name}\n" in said for name in PUSHED)
    assert "## Data" in said
    assert fake_hub.calls == []


def test_the_token_comes_from_the_environment_only(
    fake_hub: FakeHub, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(run_folder, "--token", "hf_secret") == 2
    assert "unknown flag --token" in capsys.readouterr().err
    monkeypatch.delenv("HF_TOKEN")
    assert push(run_folder) == 2
    assert "HF_TOKEN" in capsys.readouterr().err
    assert fake_hub.calls == []


def test_a_repository_in_use(fake_hub: FakeHub, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(run_folder, "--public") == 0
    assert fake_hub.calls[0][1]["private"] is False
    assert push(run_folder) == 2
    assert "already holds an artifact" in capsys.readouterr().err
    assert push(run_folder, "--overwrite") == 0
    fake_hub.repositories["me/mine"] = {".gitattributes", "thesis.tex"}
    assert push(run_folder, "--overwrite") == 2
    assert "holds other things" in capsys.readouterr().err
    assert fake_hub.repositories["me/mine"] == {".gitattributes", "thesis.tex"}


def test_what_an_earlier_export_wrote_is_replaced_and_everything_else_stays(
    fake_hub: FakeHub, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_folder / "adapter" / "of-then[1].txt").write_text("x")
    assert push(run_folder) == 0
    assert "adapter/of-then[1].txt" in fake_hub.repositories["me/mine"]
    (run_folder / "adapter" / "of-then[1].txt").unlink()
    fake_hub.repositories["me/mine"] |= {"mine-q4.gguf", "adapter/of-then1.txt"}
    capsys.readouterr()
    assert push(run_folder, "--overwrite") == 0
    strangers = {".gitattributes", "mine-q4.gguf", "adapter/of-then1.txt"}
    assert fake_hub.repositories["me/mine"] == {*PUSHED, *strangers}
    assert "me/mine keeps what no earlier export lists: adapter/of-then1.txt, mine-q4.gguf" in capsys.readouterr().err
    # Exports of before had no list: nothing of them is removed.
    fake_hub.repositories["me/mine"] = {"qadapter_config.json", "vocab.json"}
    assert push(run_folder, "--overwrite") == 0
    assert fake_hub.repositories["me/mine"] == {*PUSHED, "vocab.json"}


def test_what_the_hub_answers_is_told_and_the_same_command_goes_on(
    fake_hub: FakeHub, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_hub.fails = ConnectionError("the hub cannot be reached")
    assert push(run_folder) == 2
    said = capsys.readouterr().err
    assert "the hub cannot be reached" in said
    assert "hf_secret" not in said
    fake_hub.fails = None
    assert push(run_folder) == 0


def test_data_must_be_named(fake_hub: FakeHub, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_folder / "config.yaml").unlink()
    assert push(run_folder) == 2
    assert '--data "what the preference pairs are' in capsys.readouterr().err
    assert push(run_folder, "--data", "1,000 pairs of polite answers") == 0
    assert "Preference pairs: 1,000 pairs of polite answers" in fake_hub.card


@pytest.mark.parametrize(
    ("flags", "to", "said"),
    [
        ((), "mine", "it is a repository, OWNER/NAME"),
        ((), "a/b/c", "is no repository of the hub"),
        (("--eval", "no-such.json"), "me/mine", "is no result of `qadapter eval`"),
        (("--eval", "OTHER"), "me/mine", "is an evaluation on other/base"),
        (("--strength", "1"), "me/mine", "unknown flag --strength"),
        (("--dtype", "float32"), "me/mine", "--to hub loads no base"),
        (("--load-in", "4bit"), "me/mine", "--to hub loads no base"),
    ],
)
def test_errors(
    flags: tuple, to: str, said: str, fake_hub: FakeHub, run_folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = write_eval(tmp_path / "other.json", "other/base")
    assert push(run_folder, *[other if flag == "OTHER" else flag for flag in flags], to=to) == 2
    assert said in capsys.readouterr().err
    assert fake_hub.calls == []


def test_an_evaluation_on_a_copy_of_the_base(fake_hub: FakeHub, run_folder: Path) -> None:
    trained_on = json.loads((run_folder / "qadapter_config.json").read_text())["base"]["name_or_path"]
    write_eval(run_folder / "eval.json", "elsewhere/base", trained_on=trained_on)
    assert push(run_folder) == 0
    assert "| pair accuracy |  | 90.0 %" in fake_hub.card


def test_an_evaluation_of_another_adapter(
    fake_hub: FakeHub, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = json.loads((run_folder / "qadapter_config.json").read_text())["base"]["name_or_path"]
    write_eval(run_folder / "eval.json", base, adapter_sha256=adapter_file_sha256(run_folder))
    assert push(run_folder) == 0
    write_eval(run_folder / "eval.json", base, adapter_sha256="0" * 64)
    assert push(run_folder) == 2
    assert "an evaluation of another adapter" in capsys.readouterr().err


def test_an_incomplete_artifact(fake_hub: FakeHub, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_folder / "adapter" / "adapter_model.safetensors").unlink()
    assert push(run_folder) == 2
    assert "the artifact is incomplete" in capsys.readouterr().err
    (run_folder / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    (run_folder / "adapter" / "adapter_config.json").write_text("{")
    assert push(run_folder) == 2
    assert "adapter_config.json is damaged" in capsys.readouterr().err
    assert fake_hub.calls == []
