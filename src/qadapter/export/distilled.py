"""One LoRA trained to match the mixed policy at a strength, for engines that can hold only one policy.

The base writes prompts itself, the mixed policy answers them, and a student minimizes KL(mixed ‖ student) in the states
of these answers, by the project's trainer. What it reached is measured on other prompts.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..data import Anchor
from ..errors import ConfigError
from ..evaluate.inputs import read_neutral_prompts
from ..evaluate.policy import forward_at, policy_at
from ..model import QConstants
from ..model.quantization import load_in_of
from ..train import QAdapterTrainer, QAdapterTrainingArguments, sample_anchors
from ..train.precision import refuse_float16
from .arguments import DistilledArguments
from .card import write_card
from .end_of_turn import stop_note
from .new_folder import new_folder
from .peft import how_to_load_lora, save_lora
from .single import ExportDistance, measured_distance, probe, report
from .source import Source
from .student import STUDENT_CONSTANTS, Student

logger = logging.getLogger(__name__)


def export(source: Source, args: DistilledArguments, output: str, *, overwrite: bool) -> None:
    """Sample, train, measure, and write PEFT's files, the tokenizer and a card.

    Raises:
        ConfigError: a policy that is a LoRA already, weights in float16, or `output` is in use.
        DataError: the prompts cannot be read.
        UnsupportedModelError: an LM head for which the policy cannot be learned so.
    """
    _refuse_exact(source.constants, args.strength)
    prompts = read_neutral_prompts(args.prompts)
    with new_folder(output, overwrite) as folder:
        teacher, tokenizer = source.load()
        refuse_float16(teacher.dtype)
        note = stop_note(teacher, tokenizer)
        student, mixed = Student(teacher, args.strength), forward_at(teacher, args.strength)
        with student.as_teacher():
            states = probe(teacher, tokenizer, args.strength, prompts)
            samples = sample_anchors(
                teacher, tokenizer, args.samples, max_new_tokens=args.max_new_tokens, seed=args.seed,
                answered_by=policy_at(teacher, args.strength), on_batch=lambda done: _say(done, args.samples),
            )  # fmt: skip

        def exact(**inputs: Any) -> Any:
            with student.as_teacher():
                return mixed(**inputs)

        def distance() -> ExportDistance:
            return measured_distance(states, exact, forward_at(student.eval(), 1.0), student.device)

        before = distance()
        logger.info("before training, the adapter scaled by its weight in the mixture: %s", before)
        _train(student, tokenizer, samples, args)
        after = distance()
        report(args.strength, after, source.departures(brings_base=False, rounded=False))
        if after.kl >= before.kl:
            logger.warning("training brought it no nearer: raise --samples, or change --learning-rate.")
        save_lora(student.peft_model, folder)
        tokenizer.save_pretrained(folder)
        write_card(
            folder, source, target="distilled", strength=args.strength, what="distilled into a plain LoRA",
            distance=after, brings_base=False, loaded_in=load_in_of(teacher.base), library="peft",
            how_to_load=how_to_load_lora(source.base_name) + note,
            samples=args.samples, distance_before_training=before._asdict(),
        )  # fmt: skip


def _refuse_exact(constants: QConstants, strength: float) -> None:
    if tuple(constants.mixture(strength)) == (1.0, 0.0):
        raise ConfigError(
            f"at strength {strength:g} this policy is the adapter's own: there is nothing to distill.",
            hint="--to peft is exact; or name another --strength",
        )


def _train(
    student: Student, tokenizer: PreTrainedTokenizerBase, samples: list[Anchor], args: DistilledArguments
) -> None:
    with tempfile.TemporaryDirectory() as work:
        training = QAdapterTrainingArguments(
            output_dir=work,
            **vars(STUDENT_CONSTANTS),
            max_length=max(len(one.prompt_ids) + max(map(len, one.answer_ids)) for one in samples),
            learning_rate=args.learning_rate,
            num_train_epochs=args.num_train_epochs,
            per_device_train_batch_size=args.per_device_train_batch_size,
            auto_micro_batch=True,
            # The mixed policy does not change: from the second epoch on its two passes are saved. What is kept is
            # found again by the base's fingerprint, which a quantized one lacks.
            cache_base=args.num_train_epochs > 1 and student.base_fingerprint.weights_sha256 is not None,
            base_cache_dir=str(Path(work) / "mixed-states"),
            save_strategy="no",
            seed=args.seed,
        )
        QAdapterTrainer(student, training, processing_class=tokenizer, anchors=samples).train()


def _say(done: int, wanted: int) -> None:
    logger.info("sampling the mixed policy: %d/%d", done, wanted)
