"""The artifact and its card, pushed to the Hugging Face hub.

Only what an artifact is made of goes: checkpoints, logs and evaluations, which hold the user's data, stay.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from .. import __version__
from ..errors import ArtifactError, ConfigError, QAdapterError
from ..model import load_tokenizer
from ..model.artifact_folder import ADAPTER_FOLDER, CONFIG_FILE, adapter_folder
from ..model.model_card import is_hub_id, model_card, public_name
from .arguments import HubArguments
from .card import OF_PACKAGE_COPY
from .evaluation import evaluation_section
from .record import RECORD_FILE, files_in, list_files, listed_files
from .source import Source
from .training_data import data_section

logger = logging.getLogger(__name__)

TOKEN = "HF_TOKEN"


def export(source: Source, args: HubArguments, output: str, *, overwrite: bool) -> None:
    """Push in one commit; or, as a dry run, say what would be pushed.

    Args:
        source: the artifact; its base is not loaded.
        args: of this target.
        output: the repository, OWNER/NAME.
        overwrite: replace the artifact that the repository holds; what no export wrote stays.

    Raises:
        ConfigError: no repository of that form, no token, no data to name, or a repository that holds something.
        ArtifactError: an incomplete or damaged artifact.
        QAdapterError: what the hub answered.
    """
    _check_name(output)
    token = os.environ.get(TOKEN)
    if token is None and not args.dry_run:
        raise ConfigError(f"--to hub needs a token in the environment variable {TOKEN}.", hint="or look with --dry-run")
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        card = _fill(folder, source, args, output)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        where = f"{output} ({'public' if args.public else 'private'})"
        if args.dry_run:
            listing = "\n".join(f"{path.stat().st_size:>12,}  {path.relative_to(folder)}" for path in files)
            logger.info("would be pushed to %s:\n%s\n\nREADME.md:\n%s", where, listing, card)
            return
        try:
            _push(HfApi(token=token), folder, output, private=not args.public, overwrite=overwrite)
        except (HTTPError, OSError) as error:
            raise QAdapterError(
                f"pushing to {where} failed: {error}",
                hint=f"check the network, and that the token of {TOKEN} may write there; a repository that was made "
                "and is still empty is filled by the same command",
            ) from error
    logger.info("pushed %d files to %s", len(files), where)


def _fill(folder: Path, source: Source, args: HubArguments, repository: str) -> str:
    """The files to push; returns the card."""
    sections = [data_section(source, args.data)]
    evaluation = evaluation_section(source, args.eval)
    if evaluation is not None:
        sections.append(evaluation)
    else:
        logger.warning("the card has no table of what was gained and kept: give --eval what `qadapter eval` wrote.")
    if source.of_package_copy:
        sections.append(f"## The base\n\n{OF_PACKAGE_COPY} `qadapter` refuses it there.\n")
        logger.warning("%s `qadapter` refuses it there.", OF_PACKAGE_COPY)
    name = public_name(source.base_name)
    if not is_hub_id(source.base_name):
        sections.append(
            f"## The base\n\nIt lay in a folder `{name}`: whoever loads the adapter names a copy of it, with `--base` "
            "or `base=` of `from_pretrained`. Whether it is the same is checked.\n"
        )
        logger.warning("the base lies in a folder here, %s: whoever loads the adapter must name it.", source.base_name)
    card = model_card(source.config, location=repository, sections=sections)
    shutil.copytree(adapter_folder(source.directory), folder / ADAPTER_FOLDER)
    _write_json(folder / CONFIG_FILE, {**source.config, "base": {**source.config["base"], "name_or_path": name}})
    peft_config = folder / ADAPTER_FOLDER / "adapter_config.json"
    try:
        of_peft = json.loads(peft_config.read_text(encoding="utf-8")) | {"base_model_name_or_path": name}
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{source.directory / ADAPTER_FOLDER / peft_config.name} is damaged: {error}") from error
    _write_json(peft_config, of_peft)
    load_tokenizer(source.directory).save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    _write_json(folder / RECORD_FILE, {"qadapter_version": __version__, "target": "hub"})
    list_files(folder)
    return card


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _push(api: HfApi, folder: Path, repository: str, *, private: bool, overwrite: bool) -> None:
    held = set(api.list_repo_files(repository)) - {".gitattributes"} if api.repo_exists(repository) else set()
    if held and CONFIG_FILE not in held:
        raise ConfigError(f"{repository} holds other things than a Q-Adapter artifact.", hint="name another --output")
    if held and not overwrite:
        raise ConfigError(
            f"{repository} already holds an artifact.", hint="--overwrite replaces it, or name another --output"
        )
    if private and api.repo_exists(repository) and not api.repo_info(repository).private:
        raise ConfigError(
            f"{repository} exists and is public.", hint="--public pushes to it; or make it private on the hub first"
        )
    ours = files_in(folder)
    before = _listed_before(api, repository, held)
    if kept := sorted(held - before - ours):
        logger.info("%s keeps what no earlier export lists: %s", repository, ", ".join(kept))
    api.create_repo(repository, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repository, folder_path=folder, commit_message="Q-Adapter",
        delete_patterns=[glob.escape(name) for name in sorted(before - ours)] or None,
    )  # fmt: skip


def _listed_before(api: HfApi, repository: str, held: set[str]) -> set[str]:
    """What an earlier export wrote into a repository: all that one ever removes there."""
    if RECORD_FILE not in held:
        return set()
    return listed_files(Path(api.hf_hub_download(repository, RECORD_FILE))) & held


def _check_name(repository: str) -> None:
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"--output {repository} is no repository of the hub: {error}") from error
    if repository.count("/") != 1 or Path(repository).exists():
        raise ConfigError(f"--output {repository}: with --to hub it is a repository, OWNER/NAME.")
