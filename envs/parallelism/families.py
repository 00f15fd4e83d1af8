"""Which model types of Hugging Face the reader of ``models`` counts right, and which fields say that it would not.

A description of a type that is not listed, or with a field that the reader does not know, would be planned as plain
attention and plain experts. It is refused instead. The listed types were compared with the weights of their classes in
transformers 5.24, within 1 %; see tests/test_plan_models.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunewright.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the class of a model type decides where its description does not.

    Attributes:
        gated: whether feed-forward layers have a gate.
        tied: whether the output layer shares the embedding, unless the description says.
        positions: the field with the number of learned position embeddings; empty without them.
    """

    gated: bool = True
    tied: bool = False
    positions: str = ""


_TYPES: dict[Family, str] = {
    Family(): (
        "cwm deepseek_v2 deepseek_v3 exaone exaone4 exaone_moe flex_olmo glm glm4 glm4_moe gpt_oss granite"
        " granitemoe helium hyperclovax internlm3 llama minimax_m2 ministral3 mistral mixtral olmo olmo2 olmo3 olmoe"
        " phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss solar_open stablelm"
    ),
    Family(tied=True): (
        "cohere cohere2 ernie4_5 gemma gemma2 gemma3_text minicpm3 smollm3"
    ),
    Family(gated=False): "apertus arcee codegen gpt_neox gptj jais2 nemotron persimmon phi",
    Family(gated=False, tied=True): "bloom falcon RefinedWeb RefinedWebModel gpt_neox_japanese starcoder2",
    Family(gated=False, tied=True, positions="n_positions"): "gpt2 gpt-sw3",
    Family(gated=False, tied=True, positions="max_position_embeddings"): "opt",
}  # fmt: skip
FAMILIES = {name: family for family, names in _TYPES.items() for name in names.split()}

#: fields that change the number of weights or what a token keeps, which the reader does not count, with the values that
#: change nothing (``_NOTHING``: none does); null and an empty list change nothing either
_NOTHING: tuple[Any, ...] | None = None
_UNREAD: dict[str, tuple[Any, ...] | None] = {
    **dict.fromkeys((
        "attn_config", "ffn_config", "block_configs", "llm_config", "thinker_config", "hybrid_override_pattern",
        "layers_block_type", "mlp_only_layers", "cross_attention_layers", "ssm_cfg", "linear_attn_config",
    ), _NOTHING),
    **dict.fromkeys((
        "moe_num_experts", "moe_k", "top_k_experts", "moe_num_shared_experts", "shared_intermediate_size",
        "intermediate_size_mlp", "linear_num_key_heads", "linear_num_value_heads", "mamba_num_heads", "mamba_n_heads",
        "mamba_d_state", "mamba_d_ssm", "ssm_state_size", "state_size", "d_state", "lru_width", "moe_latent_size",
        "hidden_size_per_layer_input", "num_kv_shared_layers", "global_head_dim", "num_global_key_value_heads",
        "attn_layer_period", "expert_layer_period", "zero_expert_num", "d_ff", "d_kv", "moe_layer_start_index",
        "num_memory_blocks", "conv_L_cache", "ffn_dim_multiplier", "layer_group_size",
    ), (0,)),
    **dict.fromkeys(("interleave_moe_layer_step", "decoder_sparse_step", "moe_layer_freq", "moe_layer_interval"), (1,)),
    **dict.fromkeys(("use_double_wide_mlp", "attention_k_eq_v"), (False,)),
}  # fmt: skip
_ENCODER_DECODERS = ("bart", "blenderbot", "marian", "mbart", "mt5", "pegasus", "t5", "umt5", "whisper")
_ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")
_TOWERS = ("vision_config", "audio_config", "visual")


def family_of(config: Mapping[str, Any], name: str) -> Family | None:
    """Return the family of a description; None for one that says no model type.

    Raises:
        ConfigError: the type, or a field of the description, is not one that the reader counts.
    """
    kind = config.get("model_type")
    if config.get("is_encoder_decoder") or kind in _ENCODER_DECODERS:
        raise ConfigError(
            f"model {name} is an encoder-decoder ({shown(kind)}), which is not planned yet: only decoders are;"
            " take a preset or a decoder's config.json"
        )
    if kind is not None and (not isinstance(kind, str) or kind not in FAMILIES):
        raise ConfigError(
            f"model {name}: model_type {shown(kind)} is not known yet, so its weights cannot be counted; take a preset,"
            f" or a config.json of a type that is: {', '.join(sorted(FAMILIES, key=str.lower))}"
        )
    unread = [field for field, neutral in _UNREAD.items() if _says(config.get(field), neutral)]
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        unread += sorted({f"layer_types with {shown(k)}" for k in kinds if k not in _ATTENTION})
    kinds = config.get("mlp_layer_types")
    if isinstance(kinds, list) and kinds != sorted(kinds, key=lambda k: k != "dense"):
        unread.append("mlp_layer_types with dense layers behind the first layer with experts")
    hidden = config.get("hidden_size")
    unread += [f for f in ("word_embed_proj_dim", "embedding_size") if _says(config.get(f), (hidden,))]
    if unread:
        raise ConfigError(
            f"model {name}: {', '.join(unread)} not known yet, so its weights cannot be counted; take a preset, or"
            " describe a model without"
        )
    return FAMILIES[kind] if kind is not None else None


def shown(value: Any) -> str:
    """Return a value for a message: a short line, whatever a file held."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        return "a value too long to show"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _says(value: Any, neutral: tuple[Any, ...] | None) -> bool:
    return value is not None and value != [] and value != {} and (neutral is None or value not in neutral)


def left_out(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the parts of a description that are not counted: what sees or hears beside the language model."""
    return tuple(part for part in _TOWERS if isinstance(config.get(part), Mapping) and config[part])
