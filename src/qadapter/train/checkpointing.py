"""Checkpoints that do not depend on how many processes wrote them, or under which engine.

checkpoint-N/             an artifact: the adapter, its constants, the tokenizer
checkpoint-N/training_data.json    what tells the training rows from others
checkpoint-N/optimizer.pt, scheduler.pt, rng_state*.pth, trainer_state.json    as the Trainer has them
"""

from __future__ import annotations

import json
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import TrainOutput

from ..errors import ArtifactError, ConfigError
from ..model import QAdapterForCausalLM
from ..model.artifact_folder import ADAPTER_FOLDER, check_same_base, read_config, read_constants
from .checkpoints import check_complete, last_complete_checkpoint
from .dataset import digest_of_tokens
from .fitting import FittingTrainer
from .full_disk import named_full_disk
from .processes import from_main_process
from .sharding import load_adapter, load_optimizer, whole_adapter, whole_optimizer

logger = logging.getLogger(__name__)

OPTIMIZER_FILE, SCHEDULER_FILE, DATA_FILE = "optimizer.pt", "scheduler.pt", "training_data.json"


class CheckpointingTrainer(FittingTrainer):
    """Saves the adapter and the state of its optimizer whole; what is frozen is in no checkpoint."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the Trainer's, but True resumes from the last checkpoint that was written to its end.

        Raises:
            ConfigError: there is none, or the one that is named is missing or incomplete.
        """
        if resume_from_checkpoint is True:
            output_dir = Path(self.args.output_dir)
            # One decides: a folder that processes share may look different to each for a moment.
            resume_from_checkpoint = str(from_main_process(lambda: last_complete_checkpoint(output_dir)))
        elif resume_from_checkpoint:
            check_complete(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the artifact. All processes must call this; the main process writes."""
        model: QAdapterForCausalLM = self.accelerator.unwrap_model(self.model)
        adapter = whole_adapter(model)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            with named_full_disk(folder, Path(self.args.output_dir)):
                model.save_pretrained(folder, tokenizer=self.processing_class, state_dict=adapter)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        output_dir = Path(self.args.output_dir)
        with named_full_disk(output_dir / f"checkpoint-{self.state.global_step}", output_dir):
            super()._save_checkpoint(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled:
            self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        else:
            optimizer = whole_optimizer(self.optimizer)
            if self.args.should_save:
                torch.save(optimizer, Path(output_dir) / OPTIMIZER_FILE)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_FILE)
            (Path(output_dir) / DATA_FILE).write_text(json.dumps(self._data), encoding="utf-8")

    @cached_property
    def _data(self) -> dict[str, Any]:
        """What tells the training rows from others: a resumed run knows those it has seen by their number alone."""
        return {"rows": len(self.train_dataset), "sha256": digest_of_tokens(self.train_dataset)}

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader, resume_from_checkpoint: str | None
    ) -> tuple[nn.Module, DataLoader]:
        if resume_from_checkpoint is not None and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            # The Trainer would look for its own kind of checkpoint, after the model was sharded.
            self._load_from_checkpoint(resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            self._find_best_checkpoint(Path(resume_from_checkpoint).parent)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
            self._load_scaler(resume_from_checkpoint)
        return prepared

    def _find_best_checkpoint(self, folder: Path) -> None:
        """The best checkpoint where it lies now; the saved state has the path of another working directory."""
        step = self.state.best_global_step
        if not step:
            return
        best = folder / f"checkpoint-{step}"
        self.state.best_model_checkpoint = str(best) if best.is_dir() else None
        if self.args.load_best_model_at_end and not best.is_dir():
            logger.warning(
                "%s, the best checkpoint so far, is gone: at the end a later one that is better is loaded, or none.",
                best,
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        target: QAdapterForCausalLM = self.accelerator.unwrap_model(model or self.model)
        config = read_config(resume_from_checkpoint)
        check_same_base(config, target.base.config, target.base_fingerprint, resume_from_checkpoint)
        saved = read_constants(config, Path(resume_from_checkpoint))
        if saved != target.constants:
            raise ConfigError(
                f"{resume_from_checkpoint} was trained with other constants: {vars(saved)}, "
                f"now {vars(target.constants)}.",
                hint="resume with the saved constants, or start a new output_dir",
            )
        folder = Path(resume_from_checkpoint) / ADAPTER_FOLDER
        theirs, mine = PeftConfig.from_pretrained(str(folder)), target.peft_model.active_peft_config
        if _lora(theirs) != _lora(mine):
            raise ArtifactError(f"{folder} holds another LoRA: {_lora(theirs)}, and this run has {_lora(mine)}.")
        load_adapter(target, load_file(folder / "adapter_model.safetensors"))

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        assert checkpoint is not None
        data_file = Path(checkpoint) / DATA_FILE
        # Checkpoints of before there was such a file lack it.
        if data_file.is_file() and (saved := json.loads(data_file.read_text(encoding="utf-8"))) != self._data:
            raise ConfigError(
                f"{checkpoint} was trained on other rows: {saved['rows']} pairs and anchors then, {self._data['rows']} "
                "now, or other tokens in them.",
                hint="resume with the data as they were, or start a new output_dir",
            )
        if self.is_deepspeed_enabled:
            self._load_zero_states(checkpoint)
        else:
            load_optimizer(self.optimizer, _load(Path(checkpoint) / OPTIMIZER_FILE))
        self.lr_scheduler.load_state_dict(_load(Path(checkpoint) / SCHEDULER_FILE))

    def _load_zero_states(self, checkpoint: str) -> None:
        try:
            found, _ = self.model_wrapped.load_checkpoint(
                checkpoint, load_module_strict=False, load_lr_scheduler_states=False
            )
        except Exception as error:  # of classes that only DeepSpeed knows
            raise ConfigError(
                f"DeepSpeed cannot go on from {checkpoint}: {error}",
                hint="resume with as many processes and the ZeRO stage that wrote it; DDP and FSDP2 do not need that",
            ) from error
        if found is None:
            raise ConfigError(
                f"{checkpoint} was not written by DeepSpeed.",
                hint="resume with recipes/accelerate/ddp.yaml or fsdp2.yaml",
            )


def _lora(config: PeftConfig) -> dict[str, Any]:
    """What decides which function the factors of a LoRA are."""
    excluded = config.exclude_modules or []
    return {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        **{
            name: getattr(config, name)
            for name in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "lora_bias")
        },
        "modules": sorted(config.target_modules),
        "without": excluded if isinstance(excluded, str) else sorted(excluded),
    }


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist: the checkpoint is incomplete.", hint="resume from an earlier one")
    return torch.load(path, map_location="cpu", weights_only=True)
