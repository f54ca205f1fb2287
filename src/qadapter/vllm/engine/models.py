"""The models: a stock backbone of vLLM on doubled rows, and the mixture of its two halves before the LM head.

The decoder layers are vLLM's own; only their attention modules, the products of their linear layers and the
backbone's forward are replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models.llama import LlamaModel
from vllm.model_executor.models.qwen2 import Qwen2Model
from vllm.model_executor.models.qwen3 import Qwen3Model
from vllm.model_executor.models.utils import AutoWeightsLoader, maybe_prefix
from vllm.sequence import IntermediateTensors

from ...core import Mixture, mix_hidden_states
from ...errors import ArtifactError
from ...model.artifact_folder import ADAPTER_FOLDER
from ..packing import MERGED, factors_by_layer
from ..row_mixtures import ENGINES
from ..served_policy import SECTION, ServedPolicy, served_policy
from .low_rank import LowRank

# Marks the adapter's tensors among the weights that vLLM hands over.
_LORA = "qadapter_lora."


class PairedAttention(nn.Module):
    """The attention of a decoder layer for both policies: each half of the rows has a KV cache of its own.

    Args:
        stock: the layer's own attention, which becomes the base's.
    """

    def __init__(self, stock: Attention) -> None:
        super().__init__()
        self.base = stock
        self.adapter = Attention(
            stock.num_heads,
            stock.head_size,
            stock.impl.scale,
            num_kv_heads=stock.num_kv_heads,
            cache_config=get_current_vllm_config().cache_config,
            prefix=f"{stock.layer_name}_adapter",
        )

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[2T, heads · head size] each, rows [adapter; base]."""
        half = query.shape[0] // 2
        adapter = self.adapter(query[:half], key[:half], value[:half])
        return torch.cat([adapter, self.base(query[half:], key[half:], value[half:])])


class PairedRows(nn.Module):
    """Goes before a backbone of vLLM in the bases of a class: the backbone on doubled rows."""

    # Of the backbone.
    config: Any
    layers: Any
    norm: Any
    embed_input_ids: Any

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        policy = served_policy(getattr(self.config, SECTION, None))
        self.low_rank: list[list[LowRank]] = []
        for layer in self.layers:
            layer.self_attn.attn = PairedAttention(layer.self_attn.attn)
            self.low_rank.append(
                [LowRank(layer.get_submodule(name), name, policy.targets, policy.rank) for name in MERGED]
            )

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Final hidden states of both policies.

        Args:
            input_ids: [T].
            positions: [T].
            intermediate_tensors: of pipeline parallelism, which is refused.
            inputs_embeds: [T, hidden], instead of `input_ids`.

        Returns:
            [2T, hidden], rows [adapter; base].
        """
        embedded = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        hidden, residual = torch.cat([embedded, embedded]), None
        positions = torch.cat([positions, positions])
        for layer in self.layers:
            hidden, residual = layer(positions, hidden, residual)
        hidden, _ = self.norm(hidden, residual)
        return hidden


_TOKENS = dict.fromkeys(("input_ids", "positions", "intermediate_tensors", "inputs_embeds"), 0)


@support_torch_compile(dynamic_arg_dims=_TOKENS)
class PairedLlamaModel(PairedRows, LlamaModel):
    """Llama's layers."""


@support_torch_compile(dynamic_arg_dims=_TOKENS)
class PairedQwen2Model(PairedRows, Qwen2Model):
    """Qwen2's layers."""


@support_torch_compile(dynamic_arg_dims=_TOKENS)
class PairedQwen3Model(PairedRows, Qwen3Model):
    """Qwen3's layers."""


class TwoPolicyModel(nn.Module):
    """π̃ ∝ exp(W·(a·h₁ + b·h₀)): what vLLM serves, with (a, b) of each request.

    Args:
        vllm_config: of the engine.
        prefix: of the parameters' names.

    Raises:
        ArtifactError: the folder is no complete export.
    """

    backbone: ClassVar[type[PairedRows]]

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        model_config = vllm_config.model_config
        self.config = model_config.hf_config
        self.policy: ServedPolicy = served_policy(getattr(self.config, SECTION, None))
        self.model: Any = self.backbone(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        self.lm_head = ParallelLMHead(
            self.config.vocab_size, self.config.hidden_size, prefix=maybe_prefix(prefix, "lm_head")
        )
        if self.config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)
        self.logits_processor = LogitsProcessor(self.config.vocab_size)
        self.rows = ENGINES[vllm_config.instance_id]
        self.any_attention: str = self.model.layers[0].self_attn.attn.base.layer_name
        self.secondary_weights = (
            DefaultModelLoader.Source(
                model_config.model, model_config.revision, subfolder=ADAPTER_FOLDER, prefix=_LORA
            ),
        )

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """[T] to [T, hidden]."""
        return self.model.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """[T] tokens of any number of requests to their mixed hidden states a·h₁ + b·h₀, [T, hidden]."""
        hidden = self.model(input_ids, positions, intermediate_tensors, inputs_embeds)
        adapter_hidden, base_hidden = hidden.chunk(2)
        mixture = self._mixture(len(adapter_hidden))
        return mix_hidden_states(adapter_hidden, base_hidden, mixture).to(hidden.dtype)

    def _mixture(self, tokens: int) -> Mixture:
        """Of each token. A trial run, such as that of the memory's profile, has no requests."""
        metadata = get_forward_context().attn_metadata
        if metadata is None:
            return self.rows.default
        return self.rows.of_tokens(metadata[self.any_attention].query_start_loc, tokens)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """[rows, hidden] to [rows, vocabulary]: log π̃ up to a constant of the state."""
        return self.logits_processor(self.lm_head, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """The base's weights as vLLM loads them, then the adapter's.

        Returns:
            The names of the parameters that were filled.
        """
        adapter: dict[str, Tensor] = {}

        def of_base() -> Iterator[tuple[str, Tensor]]:
            for name, tensor in weights:
                if name.startswith(_LORA):
                    adapter[name.removeprefix(_LORA)] = tensor
                else:
                    yield name, tensor

        loaded = AutoWeightsLoader(self).load_weights(of_base())
        if len(adapter) != self.policy.tensors:
            raise ArtifactError(
                f"the folder holds {len(adapter)} LoRA factors, its config.json promises {self.policy.tensors}.",
                hint="write the folder again with `qadapter export ADAPTER --to vllm`",
            )
        factors = factors_by_layer(adapter)
        for number, layer in enumerate(self.model.low_rank):
            of_layer = {projection: pair for (index, projection), pair in factors.items() if index == number}
            for low_rank in layer:
                low_rank.load(of_layer, self.policy.scaling)
        return loaded | {name for name, _ in self.named_parameters() if name.endswith((".lora_a", ".lora_b"))}


class QAdapterLlamaForCausalLM(TwoPolicyModel):
    """Llama, and what shares its architecture in transformers (SmolLM2)."""

    backbone = PairedLlamaModel


class QAdapterQwen2ForCausalLM(TwoPolicyModel):
    """Qwen 2 and 2.5."""

    backbone = PairedQwen2Model


class QAdapterQwen3ForCausalLM(TwoPolicyModel):
    """Qwen 3, the dense models."""

    backbone = PairedQwen3Model
