"""A Trainer that works through batches of pairs in parts that fit into memory, or says clearly that one does not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from accelerate import DistributedType
from torch import Tensor, nn
from transformers import Trainer

from ..errors import ConfigError
from .memory import is_out_of_memory
from .memory_estimate import MemoryEstimate, batch_too_large, estimate_memory
from .micro_batch import MicroBatches, pair_count, pair_lengths, take_pairs

logger = logging.getLogger(__name__)


class FittingTrainer(Trainer):
    """Adds `auto_micro_batch`, and `BatchTooLargeError` for batches that do not fit.

    The loss must be a sum over pairs divided by `num_items_in_batch`: then the gradients of parts add up to those of
    the batch.

    Args:
        *args, **kwargs: of `Trainer`.

    Raises:
        ConfigError: `auto_micro_batch` with several processes.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.args.auto_micro_batch and self.accelerator.distributed_type is not DistributedType.NO:
            # A part that is done again on one process would leave the others waiting in the exchange of gradients.
            raise ConfigError(
                f"auto_micro_batch works in a single process, not under {self.accelerator.distributed_type.value}.",
                hint="lower per_device_train_batch_size and raise gradient_accumulation_steps by the same factor",
            )
        self._micro_batches = MicroBatches()
        self._memory_planned = False

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The loss and the gradients of one batch; with `auto_micro_batch` in parts that fit into memory.

        Raises:
            BatchTooLargeError: the batch, or with `auto_micro_batch` one pair of it, does not fit.
        """
        if not self._memory_planned and self.callback_handler.train_dataloader is not None:
            self._memory_planned = True
            self._plan_memory(model)
        if num_items_in_batch is None:
            num_items_in_batch = pair_count(inputs) * self.accelerator.num_processes
        step = super().training_step
        losses = self._in_memory(
            inputs,
            lambda part: step(model, part, num_items_in_batch),
            rehearsal=lambda part: self._rehearse(model, part),
            training=True,
        )
        return torch.stack(losses).sum()

    def _in_memory(
        self,
        batch: dict[str, Any],
        work: Callable[[dict[str, Any]], Any],
        *,
        rehearsal: Callable[[dict[str, Any]], object],
        training: bool,
    ) -> list[Any]:
        """The results of `work` on the parts of a batch; `rehearsal` takes the same memory and leaves no trace."""
        try:
            if not self.args.auto_micro_batch:
                return [work(batch)]
            return self._micro_batches.run(batch, work, self._undo_point)
        except (RuntimeError, MemoryError) as error:
            # auto_find_batch_size of transformers waits for the error itself.
            if not is_out_of_memory(error) or (self.args.auto_find_batch_size and training):
                raise
            cause = error.with_traceback(None)  # its frames hold the tensors of the batch
        raise batch_too_large(
            self.args,
            training=training,
            pairs=pair_count(batch),
            tokens=int(pair_lengths(batch).max()),
            estimate=self._estimate_memory(batch, rehearsal, pair_count(batch)),
            cause=cause,
        ) from cause

    def _plan_memory(self, model: nn.Module) -> None:
        """Measure a batch of the longest pair before the first step.

        A GPU reports when memory runs out; on the CPU the system ends the process without a word, so there it is
        measured in any case.
        """
        if not self.args.auto_micro_batch and self.args.device.type != "cpu":
            return
        # The loader's own, whose batches may carry states of the base.
        loader, pairs = self.callback_handler.train_dataloader, self.args.train_batch_size
        lengths = loader.dataset["length"]
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        batch = loader.collate_fn([loader.dataset[longest]])
        estimate = self._estimate_memory(batch, lambda part: self._rehearse(model, part), pairs)
        if estimate is None:
            return
        if self.args.auto_micro_batch:
            self._micro_batches.most = estimate.largest_batch(pairs)
            logger.info(
                "auto_micro_batch: batches of %d pairs in parts of at most %d; in the worst case %s.",
                pairs,
                self._micro_batches.most,
                estimate.describe(pairs),
            )
        elif estimate.needed(pairs) > estimate.available:
            logger.warning(
                "the longest batches may not fit into memory, and then the system ends this process: %s.\n"
                "hint: set auto_micro_batch, or lower per_device_train_batch_size or max_length",
                estimate.describe(pairs),
            )

    def _estimate_memory(
        self, batch: dict[str, Any], rehearsal: Callable[[dict[str, Any]], object], pairs: int
    ) -> MemoryEstimate | None:
        """What `pairs` copies of a batch's longest pair take; None under several processes, which must act together."""
        if self.accelerator.distributed_type is not DistributedType.NO:
            return None
        lengths = pair_lengths(batch)
        longest = int(lengths.argmax())
        return estimate_memory(
            self.args.device,
            lambda count: rehearsal(take_pairs(batch, [longest] * count)),
            pairs=pairs,
            tokens=int(lengths[longest]),
        )

    def _rehearse(self, model: nn.Module, batch: dict[str, Any]) -> None:
        """Forward and backward as in training, without gradients in the parameters, metrics or random numbers used."""
        model.train()
        device = self.args.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            with self.compute_loss_context_manager():
                loss = model(**self._prepare_inputs(batch)).loss
            torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)

    def _undo_point(self) -> Callable[[], None]:
        """Remember what a part of a batch changes; the result puts it back."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        # `backward` adds to the gradients in place. There are few: the LoRA's.
        gradients = [None if p.grad is None else p.grad.clone() for p in parameters]

        def undo() -> None:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient

        return undo
