"""`QAdapterTrainer`: the Trainer of transformers with the constructor keywords of `trl.DPOTrainer`."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.utils.data import DataLoader, Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_utils import EvalLoopOutput

from ..core import BaseStates
from ..data import Anchor, PreferenceCollator
from ..errors import ConfigError
from ..model import QAdapterForCausalLM, load_base, load_base_tokenizer, machine_dtype
from .anchors import sample_anchors
from .argument_checks import check_batches
from .arguments import QAdapterTrainingArguments, own_arguments
from .base_cache import BaseCache
from .base_cache_build import base_cache, default_cache_dir, fill
from .cached_collator import PAIR_INDEX, CachedCollator
from .callbacks import MetricsFile, Progress
from .checkpointing import CheckpointingTrainer
from .counted import COUNTED, counted_pairs, mark_counted
from .dataset import with_anchors
from .metrics import preference_metrics
from .precision import refuse_float16
from .processes import from_main_process
from .sampler import LengthGroupedSampler
from .stored_base import check_stored_base
from .token_rows import are_token_rows, token_rows

logger = logging.getLogger(__name__)


class QAdapterTrainer(CheckpointingTrainer):
    """Train a residual Q-function on preference pairs.

    Args:
        model: the base model, its name, or a `QAdapterForCausalLM` (whose LoRA is then used, and
            whose constants must be those of `args`).
        args: the arguments; the constants and the LoRA come from them where `model` is a base.
        data_collator: makes batches of tokenized pairs; default `PreferenceCollator`.
        train_dataset: in any form that `load_preference_dataset` reads, TRL's among them.
        eval_dataset: the same, or a dict of several. Of a hub data set the split `test` is read here, `train` above.
        processing_class: the tokenizer; default the base model's.
        callbacks: more callbacks.
        optimizers: optimizer and scheduler, instead of those that `args` describes.
        peft_config: the LoRA, instead of the `lora_*` fields of `args`.
        anchors: answers of the base to other prompts, from `sample_anchors`: mixed into the training pairs, they hold
            the policy at the base with the weight `anchor_coef`. None samples `args.anchors` of them here. Without a
            train_dataset they are all that is trained on.

    Raises:
        ConfigError, DataError, UnsupportedModelError: see their texts. Training and evaluation raise
            BatchTooLargeError where a batch does not fit into memory.
    """

    # `compute_loss` divides by the number of pairs of the whole accumulated batch, so that unequal micro-batches
    # (the last of an epoch) weigh by their pairs.
    loss_is_scaled_for_ga = True
    train_dataset: Any
    data_collator: Any

    def __init__(
        self,
        model: str | PreTrainedModel | QAdapterForCausalLM,
        args: QAdapterTrainingArguments | None = None,
        data_collator: Callable[..., dict[str, Tensor]] | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        peft_config: LoraConfig | None = None,
        anchors: Sequence[Anchor] | None = None,
    ) -> None:
        args = own_arguments(args)
        if args.world_size == 1 and args.n_gpu > 1:
            # transformers would wrap the model in DataParallel, which splits a batch between chosen and rejected.
            args._n_gpu = 1
        name = model if isinstance(model, str) else model.config.name_or_path
        if isinstance(model, str):
            model = load_base(model, dtype=machine_dtype("auto", args.device.type))
        tokenizer = processing_class or load_base_tokenizer(name)
        base = model.base if isinstance(model, QAdapterForCausalLM) else model
        refuse_float16(base.dtype)
        check_stored_base(base)

        def tokenized(source: Any, split: str) -> Any:
            return None if source is None else token_rows(source, tokenizer, base, args, split=split)

        # Before the LoRA is put on: what goes wrong here leaves the base as it was.
        train_dataset = tokenized(train_dataset, "train")
        if train_dataset is not None:
            check_batches(args, len(train_dataset) + (args.anchors or 0 if anchors is None else len(anchors)))
        if isinstance(eval_dataset, dict):
            eval_dataset = {key: tokenized(part, "test") for key, part in eval_dataset.items()}
        else:
            eval_dataset = tokenized(eval_dataset, "test")
        if not isinstance(model, QAdapterForCausalLM):
            set_seed(args.seed)  # the LoRA's first weights
            model = QAdapterForCausalLM(model, args.constants, peft_config or args.lora_config)
        elif peft_config is not None:
            raise ConfigError("peft_config was given, but the model already holds its LoRA.")
        elif model.constants != args.constants:
            raise ConfigError(f"the model's constants {model.constants} are not those of args, {args.constants}.")
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ConfigError(
                "the model's LoRA is frozen: there is nothing to train.",
                hint="load it with QAdapterForCausalLM.from_pretrained(..., trainable=True)",
            )
        super().__init__(
            model=model,
            args=args,
            # Every base has a token 0; one that was added for padding may have no row in the embedding.
            data_collator=data_collator or PreferenceCollator(pad_token_id=0),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            callbacks=[MetricsFile(), Progress(), *(callbacks or [])],
            optimizers=optimizers,
        )
        for replaced in (PrinterCallback, ProgressCallback):
            self.remove_callback(replaced)
        if anchors is None:
            anchors = [] if self.train_dataset is None else self._sampled_anchors()
        elif anchors and not args.anchor_coef:
            raise ConfigError(f"{len(anchors)} anchors were given, and anchor_coef 0 gives them no weight.")
        self.anchors = anchors
        """Those that are trained on; a resumed run must be given them again."""
        self.train_dataset = with_anchors(self.train_dataset, anchors, args.max_length)
        self._base_cache: BaseCache | None = None
        # Before the weights are sharded, and where only the main process has loaded them.
        model.base_fingerprint = from_main_process(lambda: model.base_fingerprint)
        self._metric_sums: dict[str, Tensor] = {}
        """Name → [sum, count] since the last log line."""

    def _sampled_anchors(self) -> Sequence[Anchor]:
        """`args.anchors` answers of the base: what the main process samples, in all processes."""
        count = self.args.anchors
        if not count:
            return []
        logger.info("sampling %d anchors from the base", count)
        limits: dict[str, Any] = {"max_length": self.args.max_length, "seed": self.args.seed}

        def say(done: int) -> None:
            logger.info("  %d of %d anchors", done, count)

        return from_main_process(
            lambda: sample_anchors(self.model, self.processing_class, count, **limits, on_batch=say)
        )

    # ------------------------------------------------------------------ batches

    def get_train_dataloader(self) -> DataLoader:
        """The batches of training; with `cache_base` they carry `base_states`, and `train()` builds the cache first."""
        if not self.args.cache_base or self.train_dataset is None:
            return super().get_train_dataloader()
        directory = Path(self.args.base_cache_dir or default_cache_dir()).expanduser()
        model: QAdapterForCausalLM = self.accelerator.unwrap_model(self.model)
        precision = self.accelerator.mixed_precision
        self._base_cache = base_cache(model, self.processing_class, self.train_dataset, directory, precision)
        plain = self.train_dataset, self.data_collator
        numbered = self.train_dataset.add_column(PAIR_INDEX, list(range(len(self.train_dataset))))
        try:
            self.train_dataset, self.data_collator = numbered, CachedCollator(self.data_collator, self._base_cache)
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = plain

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> tuple[nn.Module, DataLoader]:
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self._base_cache is not None:
            # Only now is the model where it will be trained, with its weights spread over the processes.
            self._fill_base_cache(self._base_cache)
        return prepared

    def _fill_base_cache(self, cache: BaseCache) -> None:
        model: QAdapterForCausalLM = self.accelerator.unwrap_model(self.model)
        if self.is_fsdp_enabled:
            register_fsdp_forward_method(model, "base_states_of_pairs")

        def states_of(rows: list[dict[str, Any]]) -> BaseStates:
            with self.accelerator.autocast():
                return model.base_states_of_pairs(**self._prepare_inputs(self.data_collator(rows)))

        args, epochs = self.args, self.args.num_train_epochs
        if args.max_steps > 0:
            pairs_per_step = self._train_batch_size * args.gradient_accumulation_steps * args.world_size
            epochs = args.max_steps * pairs_per_step / len(self.train_dataset)
        to_fit = args.auto_micro_batch
        fill(cache, self.train_dataset, self._train_batch_size, states_of, epochs=epochs, to_fit=to_fit)

    def _run_epoch(self, **kwargs: Any) -> None:
        # accelerate's own call does not reach the sampler where a resumed epoch is divided among processes.
        sampler = kwargs["train_dataloader"].batch_sampler
        while hasattr(sampler, "batch_sampler"):
            sampler = sampler.batch_sampler
        if hasattr(sampler.sampler, "set_epoch"):
            sampler.sampler.set_epoch(kwargs["epoch"])
        super()._run_epoch(**kwargs)

    def _prepare_input(self, data: Any) -> Any:
        if isinstance(data, BaseStates):  # the Trainer rebuilds tuples from one iterable, and may lower precision
            return BaseStates._make(None if field is None else field.to(self.args.device) for field in data)
        return super()._prepare_input(data)

    # ------------------------------------------------------------------ loss

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, Tensor]:
        """The micro-batches of one step and the number of pairs in them, over all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        padded = self.args.world_size > 1 and not self.args.dataloader_drop_last
        if batches and padded and self.accelerator.gradient_state.end_of_dataloader:
            # Not accelerate's own remainder, which is wrong where batches are skipped to resume.
            left = len(self.train_dataset) % (self._train_batch_size * self.args.world_size)
            batches[-1] = mark_counted(batches[-1], process=self.args.process_index, left=left)
        pairs = torch.tensor(sum(map(counted_pairs, batches)), device=device)
        return batches, self.accelerator.reduce(pairs, reduction="sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The sum of the pairs' losses over the number of pairs of the step (or of this batch, outside training)."""
        counted = inputs.get(COUNTED)
        output = model(**{name: value for name, value in inputs.items() if name != COUNTED})
        if counted is not None:
            output = output.of_pairs(counted.chunk(2)[0])
        if num_items_in_batch is None:
            loss = output.loss
        else:
            # Gradients are averaged over processes: undo the division by their number.
            loss = output.pair_loss.sum() * self.accelerator.num_processes / num_items_in_batch
        if model.training:
            for name, values in preference_metrics(output).items():
                # float32: Apple's devices have no wider one.
                total = torch.stack([values.float().sum(), values.new_tensor(len(values), dtype=torch.float32)])
                self._metric_sums[name] = self._metric_sums.get(name, 0.0) + total
        return (loss, output) if return_outputs else loss

    def _undo_point(self) -> Callable[[], None]:
        undo_gradients, sums = super()._undo_point(), dict(self._metric_sums)

        def undo() -> None:
            undo_gradients()
            self._metric_sums = sums

        return undo

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the training pairs since the last log line."""
        if self._metric_sums and "loss" in logs:
            names = sorted(self._metric_sums)
            sums = torch.stack([self._metric_sums[name] for name in names]).to(self.args.device)
            totals = self.accelerator.reduce(sums, reduction="sum").tolist()
            means = {name: value / count for name, (value, count) in zip(names, totals, strict=True) if count}
            logs = {**logs, **means}
            self._metric_sums.clear()
        super().log(logs, start_time)

    # ------------------------------------------------------------------ evaluation

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Batches of all held-out pairs: `dataloader_drop_last` is about the steps of training."""
        several = self.eval_dataset if isinstance(self.eval_dataset, dict) else {}
        # A string that names none of them is a file or an id, as in the constructor.
        if eval_dataset is not None and not (isinstance(eval_dataset, str) and eval_dataset in several):
            eval_dataset = self._tokenized(eval_dataset)
        dropped, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.args.dataloader_drop_last = dropped

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        return super().get_test_dataloader(self._tokenized(test_dataset))

    def _tokenized(self, source: Any) -> Any:
        if are_token_rows(source):
            return source
        model: QAdapterForCausalLM = self.accelerator.unwrap_model(self.model)
        return token_rows(source, self.processing_class, model.base, self.args, split="test")

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Means over the held-out pairs; the batch size does not enter (the Trainer's own loop counts rows)."""
        model = self._wrap_model(self.model, training=False)
        model.eval()

        def metrics_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            with torch.no_grad(), self.compute_loss_context_manager():
                found = preference_metrics(model(**self._prepare_inputs(batch)))
            return {name: values for name, values in found.items() if not name.startswith("anchor/")}

        collected: dict[str, list[Tensor]] = defaultdict(list)
        for inputs in dataloader:
            parts = self._in_memory(inputs, metrics_of, rehearsal=metrics_of, training=False)
            for name in parts[0]:
                values = torch.cat([part[name] for part in parts]).float()
                collected[name].append(self.accelerator.gather_for_metrics(values))
        per_pair = {name: torch.cat(values) for name, values in collected.items()}
        return EvalLoopOutput(
            predictions=None,
            label_ids=None,
            metrics={f"{metric_key_prefix}_{name}": values.mean().item() for name, values in per_pair.items()},
            num_samples=len(next(iter(per_pair.values()))),
        )

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return LengthGroupedSampler(self.train_dataset["length"], step, seed)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        return torch.utils.data.SequentialSampler(eval_dataset) if self.args.world_size == 1 else None
