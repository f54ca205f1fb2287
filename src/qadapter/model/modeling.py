"""`QAdapterForCausalLM`: a frozen base and its LoRA adapter as one causal LM of transformers.

From outside it sees B rows. It knows nothing of data files or trainers: a preference batch is tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers.pipelines.base
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..core import BaseStates
from ..core.mixture import Scalar
from ..errors import ConfigError, UnsupportedModelError
from .caches import PairedRows, check_policy, note_policy, pair_cache
from .dial import DIALS, check_mixture, checked_dial, rows_needed
from .long_rope import check_steady
from .lora import Rows
from .pair_loss import PreferenceOutput
from .quantization import is_quantized
from .small_steps import small_steps
from .two_policies import TwoPolicies

# The pipeline would log an error that the class is unknown to it, though it works: it goes by a list of names.
transformers.pipelines.base.SUPPORTED_PEFT_TASKS["text-generation"].append("QAdapterForCausalLM")


class QAdapterForCausalLM(TwoPolicies, GenerationMixin):
    """The customized policy π̃ ∝ exp[(η·Q̂ + α₀·log π₀)/α̃] over a frozen base model.

    Args:
        base: a decoder-only causal LM of transformers. It is mutated: frozen, its dropout set to zero, LoRA injected.
        constants: the constants of the method; None gives `QConstants()`, which is no preset (`args.constants` of
            `QAdapterTrainingArguments` are the preset's).
        peft_config: the LoRA; None gives r=8, alpha=16 on all linear layers that text gets to, but the LM
            head.
        peft_model: `base` already wrapped by PEFT (used when loading), instead of `peft_config`.

    Raises:
        UnsupportedModelError: a base or a LoRA for which the policies cannot be mixed exactly.
        ConfigError: a LoRA on modules that the base does not have, or that no text gets to.

    Source: Q-Adapter (arXiv 2407.03856).
    """

    # ------------------------------------------------------------------ forward

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict[str, Tensor] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        logits_dtype: torch.dtype | None = None,
        strength: Scalar | None = None,
        alpha_0: Scalar | None = None,
        alpha_tilde: Scalar | None = None,
        completion_mask: Tensor | None = None,
        terminated: Tensor | None = None,
        base_states: BaseStates | None = None,
        anchor: Tensor | None = None,
        **backbone_kwargs: Any,
    ) -> CausalLMOutputWithPast | PreferenceOutput:
        """Logits of the mixed policy; or, with `completion_mask`, the loss of a batch of preference pairs.

        Args:
            input_ids: [rows, tokens]. In a preference batch rows = 2·pairs: all chosen, then all rejected.
            attention_mask: [rows, tokens], or the 4-d masks of static caches.
            position_ids, past_key_values, inputs_embeds, use_cache: as in any causal LM of transformers.
            logits_to_keep: number of last positions (0: all), or their indices.
            logits_dtype: of the product with the LM head; default that of its weights.
            strength: η ≥ 0, a number or [rows]; default 1.
            alpha_0: α₀, a number or [rows]; default the trained one.
            alpha_tilde: α̃, a number or [rows]; default the trained one.
            completion_mask: [rows, tokens] bool, True at the tokens of the response (a contiguous run).
            terminated: [rows] bool, False where the response was cut at the length limit.
            base_states: what `base_states_of_pairs` gives for this batch, to do without the base's pass.
            anchor: [rows] bool, True in both rows of a pair that is an anchor: answers of the base, no preference.

        Returns:
            `CausalLMOutputWithPast` with logits [rows, positions, vocabulary], log π̃ up to a constant of the state;
            or `PreferenceOutput`.

        Raises:
            DataError: a row of a preference batch without prompt or without response tokens.
            ConfigError: constants that leave no policy; a cache that holds the keys of another one.
        """
        if "labels" in backbone_kwargs:
            raise ConfigError("labels have no meaning here; a preference batch has completion_mask and terminated.")
        if completion_mask is not None:
            if not isinstance(input_ids, Tensor) or isinstance(attention_mask, dict):
                raise ConfigError("a preference batch needs input_ids, and attention_mask as [rows, tokens].")
            pairs = (input_ids, attention_mask, completion_mask, terminated)
            return self.preference_loss(*pairs, base_states, anchor, **backbone_kwargs)

        mixture = self.constants.mixture(1.0 if strength is None else strength, alpha_0, alpha_tilde)
        rows = rows_needed(mixture)
        if isinstance(past_key_values, PairedRows):
            rows = Rows.BOTH
        elif rows is Rows.BOTH:
            if past_key_values is not None:
                past_key_values = pair_cache(past_key_values)
            elif self.base.config.get_text_config().use_cache if use_cache is None else use_cache:
                past_key_values = pair_cache(DynamicCache(config=self.base.config.get_text_config(decoder=True)))
        if rows is Rows.BOTH:
            batch = len(inputs_embeds if input_ids is None else input_ids)  # type: ignore[arg-type]
            input_ids, attention_mask, position_ids, inputs_embeds = (
                _twice(value, batch) for value in (input_ids, attention_mask, position_ids, inputs_embeds)
            )
        elif past_key_values is not None and not torch.compiler.is_compiling():
            check_policy(past_key_values, rows)
        with self.row_router.route(rows):
            output = self.base.base_model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **backbone_kwargs,
            )
        if output.past_key_values is not None and not torch.compiler.is_compiling():
            note_policy(output.past_key_values, rows)
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = output.last_hidden_state[:, positions]
        if rows is Rows.BOTH:
            logits = self.head.mixed_logits(hidden[:batch], hidden[batch:], mixture, logits_dtype)
        else:
            logits = self.head.logits(hidden, logits_dtype)
            weight = mixture.adapter if rows is Rows.ADAPTER else mixture.base
            logits = logits if weight == 1.0 else weight * logits
        return CausalLMOutputWithPast(
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.get("hidden_states"),
            attentions=output.get("attentions"),
        )

    # ------------------------------------------------------------------ generate

    def generate(
        self,
        *args: Any,
        strength: Scalar | Sequence[float] | None = None,
        alpha_0: Scalar | Sequence[float] | None = None,
        alpha_tilde: Scalar | Sequence[float] | None = None,
        **kwargs: Any,
    ) -> Any:
        """`GenerationMixin.generate` on the mixed policy. Calls from several threads wait for each other.

        Args:
            strength: η ≥ 0, a number or one per prompt; 0 is the base policy (at temperature α̃/α₀), 1 what was
                trained, above 1 extrapolates.
            alpha_0: α₀ ≥ 0 at decode time, a number or one per prompt; default the trained one.
            alpha_tilde: α̃ > 0 at decode time, a number or one per prompt; default the trained one.
            *args, **kwargs: as in transformers.

        Raises:
            ConfigError: a negative or non-finite dial, or more or fewer than prompts; dials that leave a prompt no
                policy or give it extreme weights; an answer across the length at which the base's RoPE takes other
                frequencies.
        """
        given = {"strength": strength, "alpha_0": alpha_0, "alpha_tilde": alpha_tilde}
        prompts = _prompts(*args[:1], *(kwargs.get(name) for name in ("inputs", "input_ids", "inputs_embeds")))
        dial = {name: checked_dial(name, value, prompts) for name, value in given.items() if value is not None}
        if dial:
            check_mixture(self.constants.mixture(**dial))
        with self.row_router.lock, torch.no_grad(), small_steps(self.row_router):
            return super().generate(*args, **dial, **kwargs)

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict, generation_mode: Any, batch_size: int, max_cache_length: int
    ) -> Any:
        strength = model_kwargs.get("strength")
        mixture = self.constants.mixture(
            1.0 if strength is None else strength, model_kwargs.get("alpha_0"), model_kwargs.get("alpha_tilde")
        )
        both = rows_needed(mixture) is Rows.BOTH
        if generation_config.use_cache:
            check_steady(self.base, model_kwargs, generation_config.prefill_chunk_size, max_cache_length)
        # A static cache may take its size here, before it is made to count in pairs.
        cache_rows = 2 * batch_size if both else batch_size
        result = super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, cache_rows, max_cache_length
        )
        cache = model_kwargs.get("past_key_values")
        if cache is not None and both:
            model_kwargs["past_key_values"] = pair_cache(cache)
        return result

    def _get_logits_processor(self, *args: Any, model_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        processors = super()._get_logits_processor(*args, model_kwargs=model_kwargs, **kwargs)
        given = kwargs.get("logits_processor") or ()
        for processor in processors:
            if isinstance(processor, UnbatchedClassifierFreeGuidanceLogitsProcessor) and processor not in given:
                # It asks the model itself about the negative prompt, and would do so at the trained dial.
                dial = {name: value for name, value in (model_kwargs or {}).items() if name in DIALS}
                processor.model = partial(self.__call__, **dial)
        return processors

    def _get_candidate_generator(
        self, *args: Any, model_kwargs: dict[str, Any], assistant_model: PreTrainedModel | None = None, **kwargs: Any
    ) -> Any:
        if assistant_model is not None and not isinstance(assistant_model, QAdapterForCausalLM):
            # An assistant is handed what this model gets, and refuses arguments that it does not know.
            model_kwargs = {name: value for name, value in model_kwargs.items() if name not in DIALS}
        return super()._get_candidate_generator(
            *args, model_kwargs=model_kwargs, assistant_model=assistant_model, **kwargs
        )

    def init_continuous_batching(self, *_args: Any, **_kwargs: Any) -> Any:
        raise UnsupportedModelError(
            "continuous batching of transformers keeps one policy's keys per request; the mixture needs two.",
            hint="use generate() with a batch of prompts",
        )

    generate_batch = continuous_batching_context_manager = init_continuous_batching

    def fold(self) -> PreTrainedModel:
        """The policy that was trained as a plain model of the base's class: the adapter folded into the weights.

        It decodes at the base's own speed, and the dial is gone. The weights are changed in place: this object
        cannot be used afterwards.

        Raises:
            ConfigError: the policy is not the adapter's own softmax(z₁); it is in `residual` with α₀ = α̃.
            UnsupportedModelError: the base is quantized; a LoRA on an embedding that is tied to the LM head, which
                would change with it; or a LoRA with biases where the base has none.

        Source: with Q̂ = α̃·(z₁ − z₀) and ρ = α₀/α̃ = 1, π̃ = softmax(z₁).
        """
        mixture = self.constants.mixture(1.0)
        if tuple(mixture) != (1.0, 0.0):
            raise ConfigError(
                f"the policy is softmax({mixture.adapter:g}·z₁ + {mixture.base:g}·z₀), which no single set of weights "
                "gives.",
                hint="train with parametrization residual and alpha_0 = alpha_tilde, or decode with both policies",
            )
        if is_quantized(self.base):
            raise UnsupportedModelError(
                "the base is quantized: the sum with the adapter would be rounded to its few bits again.",
                hint="load the artifact on the base in full precision (without load_in) and fold that",
            )
        embedding = self.get_input_embeddings()
        if isinstance(embedding, LoraLayer) and self.get_output_embeddings().weight is embedding.base_layer.weight:
            raise UnsupportedModelError(
                "the LoRA on the embedding cannot be folded: the LM head has the same weights, and the policy does not "
                "adapt them there.",
                hint="leave the embedding out of lora_target_modules, or export --to peft",
            )
        for layer in self.row_router.layers:
            # PEFT would find out after it has folded the layers before.
            if any(layer.lora_bias.values()) and getattr(layer.get_base_layer(), "bias", None) is None:
                raise UnsupportedModelError(
                    "the LoRA has biases (lora_bias) where the base has none, which leaves them no place in it.",
                    hint="train without lora_bias, or export --to peft",
                )
        self.row_router.remove()
        return self.peft_model.merge_and_unload(safe_merge=True)

    # ------------------------------------------------------------------ save and load

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the artifact: `qadapter_config.json`, `adapter/` (PEFT's files), a model card, the tokenizer.

        Args:
            save_directory: the folder; made if missing.
            tokenizer: saved beside the adapter, and its hash in the config.
            state_dict: the adapter's factors, where the model's own are sharded.
            is_main_process: only that process writes (default True).
        """
        from .artifact import save_artifact

        if kwargs.get("is_main_process", True):
            save_artifact(self, Path(save_directory), tokenizer, state_dict)

    @classmethod
    def from_pretrained(cls, directory: str | Path, base: Any = None, **kwargs: Any) -> QAdapterForCausalLM:
        """Load an artifact. See `qadapter.model.artifact.load_artifact` for the arguments and the errors."""
        from .artifact import load_artifact

        return load_artifact(directory, base, **kwargs)


def _prompts(*inputs: Any) -> int:
    """How many prompts one of several ways to give them holds; without any, generation begins one text."""
    return next((len(value) for value in inputs if isinstance(value, Tensor)), 1)


def _twice(value: Any, rows: int) -> Any:
    """B rows as 2B, [adapter; base]; also for the dict of masks of models with several kinds of attention.

    A tensor with one row for the whole batch (shared position ids, a shared mask) broadcasts as it is.
    """
    if isinstance(value, dict):
        return {key: _twice(entry, rows) for key, entry in value.items()}
    return torch.cat([value, value]) if isinstance(value, Tensor) and value.shape[0] == rows else value
