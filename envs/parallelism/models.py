"""Shapes of transformer models, from a Hugging Face config.json or a preset."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tunewright.envs.parallelism.families import Family, family_of, left_out, shown
from tunewright.errors import ConfigError, unknown
from tunewright.store.files import read_json

_PRESETS = Path(__file__).with_name("presets") / "models.toml"
_GATED = ("silu", "swish", "swiglu", "geglu")
# the names that families of models use for the same thing
_NAMES = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "vocab": ("vocab_size",),
}
MOST, MOST_LAYERS = 10**9, 10**5  # of any size; larger numbers are mistakes
_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Shape of a decoder-only transformer.

    Attributes:
        name: for people.
        layers: transformer layers.
        hidden: width of the residual stream.
        heads, kv_heads: attention heads, and heads of keys and values.
        qk_dim, v_dim: dimension of a head's query and key, and of its value.
        ffn: width of a dense feed-forward layer.
        gated: whether feed-forward layers have a gate (three matrices instead of two).
        vocab: rows of the embedding.
        tied: whether the output layer shares the embedding.
        experts, top_k: routed experts of a layer and how many a token uses; 0 for a dense model.
        expert_ffn: width of one expert.
        shared_experts: experts that every token uses.
        dense_layers: first layers without experts, of a mixture of experts.
        window: tokens that a windowed layer attends to; 0 without one.
        full_every: every so many layers attends to everything; 1: all do.
        q_rank, kv_rank, rope_dim: of latent attention (DeepSeek); 0 without it.
        positions: learned position embeddings, 0 without them.
        source: where the numbers are from.
        left_out: parts of the description that are not counted, such as ``vision_config``.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    qk_dim: int
    v_dim: int
    ffn: int
    gated: bool
    vocab: int
    tied: bool = False
    experts: int = 0
    top_k: int = 0
    expert_ffn: int = 0
    shared_experts: int = 0
    dense_layers: int = 0
    window: int = 0
    full_every: int = 1
    q_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    positions: int = 0
    source: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def attention_params(self) -> int:
        """Weights of one layer's attention."""
        if self.kv_rank:
            nope = self.qk_dim - self.rope_dim
            query = self.hidden * self.q_rank + self.q_rank * self.heads * self.qk_dim
            if not self.q_rank:
                query = self.hidden * self.heads * self.qk_dim
            keys = self.hidden * (self.kv_rank + self.rope_dim) + self.kv_rank * self.heads * (nope + self.v_dim)
            return query + keys + self.heads * self.v_dim * self.hidden
        query = self.hidden * self.heads * self.qk_dim
        return query + self.hidden * self.kv_heads * (self.qk_dim + self.v_dim) + self.heads * self.v_dim * self.hidden

    @property
    def matrices(self) -> int:
        """Matrices of a feed-forward layer."""
        return 3 if self.gated else 2

    @property
    def dense_ffn_params(self) -> int:
        """Weights of a dense feed-forward layer."""
        return self.matrices * self.hidden * self.ffn

    @property
    def expert_params(self) -> int:
        """Weights of one expert."""
        return self.matrices * self.hidden * self.expert_ffn

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def embedding_params(self) -> int:
        """Weights of the token embedding."""
        return self.vocab * self.hidden

    @property
    def params(self) -> int:
        """All weights."""
        dense = (self.layers - self.moe_layers) * self.dense_ffn_params
        routed = self.moe_layers * (
            (self.experts + self.shared_experts) * self.expert_params + self.experts * self.hidden
        )
        ends = self.embedding_params * (1 if self.tied else 2) + self.positions * self.hidden
        return self.layers * (self.attention_params + 2 * self.hidden) + dense + routed + ends

    @property
    def active_params(self) -> int:
        """Weights that one token uses."""
        idle = self.moe_layers * (self.experts - self.top_k) * self.expert_params
        return self.params - idle

    @property
    def kv_bytes(self) -> int:
        """Numbers that one token leaves in the key-value cache of one layer; times bytes a number."""
        return self.kv_rank + self.rope_dim if self.kv_rank else self.kv_heads * (self.qk_dim + self.v_dim)

    def context(self, length: float) -> float:
        """Mean tokens that a layer looks at when the sequence has ``length`` of them."""
        near = min(length, self.window) if self.window else 0.0
        return (length + (self.full_every - 1) * near) / self.full_every


@cache
def presets() -> dict[str, dict[str, Any]]:
    """Return the presets as they stand in the file."""
    return tomllib.loads(_PRESETS.read_text(encoding="utf-8"))


def load(name: str) -> Model:
    """Return a model by preset or by the path of a config.json.

    Raises:
        ConfigError: there is no such file, or something in it is missing or wrong.
        UnknownNameError: there is no such preset.
    """
    if name in presets():
        return from_config(presets()[name], name)
    path = Path(name)
    if path.is_dir():
        path = path / "config.json"
    if path.suffix == ".json" or path.exists():
        config = read_json(path, "model description")
        if not isinstance(config, dict):
            raise ConfigError(f"{path}: a config.json holds one object")
        return from_config(config, path.parent.name if path.name == "config.json" and path.parent.name else path.stem)
    raise unknown("model", name, list(presets()), plural="Give the path of a config.json, or one of")


def from_config(config: Mapping[str, Any], name: str = "model") -> Model:
    """Return the model that a Hugging Face style configuration describes.

    Raises:
        ConfigError: fields are missing, do not fit together, or are not counted yet; all of them are named.
    """
    inner, towers = config.get("text_config"), left_out(config)
    if isinstance(inner, Mapping):  # models that also see pictures keep the text part inside
        config = {**config, **inner}
    known = family_of(config, name)
    family = known or Family(gated=_gated(config))
    found = {field: next((config[n] for n in names if n in config), None) for field, names in _NAMES.items()}
    missing = [" or ".join(_NAMES[f]) for f, v in found.items() if v is None]
    if missing:
        raise ConfigError(f"the description of model {name} lacks {', '.join(missing)}")
    wrong = [
        f"{f} = {shown(v)}"
        for f, v in found.items()
        if not isinstance(v, int) or isinstance(v, bool) or not 1 <= v <= (MOST_LAYERS if f == "layers" else MOST)
    ]
    if wrong:
        raise ConfigError(
            f"model {name}: {', '.join(wrong)} must be a whole number of at least 1, and at most {MOST:,} (layers"
            f" {MOST_LAYERS:,})"
        )
    layers, hidden, heads, vocab = (int(found[f]) for f in ("layers", "hidden", "heads", "vocab"))  # type: ignore[arg-type]

    def number(*names: str, default: int = 0) -> int:
        value = next((config[n] for n in names if config.get(n) is not None), default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST:
            raise ConfigError(f"model {name}: {names[0]} must be a whole number from 0 to {MOST:,}, not {shown(value)}")
        return value

    latent = number("kv_lora_rank")
    head_dim = number("head_dim")
    if not head_dim and not latent:
        if hidden % heads:
            raise ConfigError(f"model {name}: hidden size {hidden} is not a multiple of {heads} heads; give head_dim")
        head_dim = hidden // heads
    kv_heads = number("num_key_value_heads", "num_kv_heads", "n_head_kv", default=heads) or heads
    if config.get("multi_query") and not config.get("new_decoder_architecture"):
        kv_heads = 1  # Falcon's first models
    if heads % kv_heads:
        raise ConfigError(f"model {name}: {heads} heads are not a multiple of {kv_heads} key and value heads")
    rope = number("qk_rope_head_dim") if latent else 0
    qk_dim = number("qk_nope_head_dim") + rope if latent else head_dim
    experts = number(*_EXPERTS)
    top_k = number("num_experts_per_tok", "moe_top_k")
    if experts and not 1 <= top_k <= experts:
        raise ConfigError(f"model {name}: num_experts_per_tok must be 1 to {experts}, not {top_k}")
    ffn = number("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", default=4 * hidden) or 4 * hidden
    expert_ffn = number("moe_intermediate_size", default=ffn) or ffn if experts else 0
    tied = config.get("tie_word_embeddings")
    if not isinstance(tied, bool | None):
        raise ConfigError(f"model {name}: tie_word_embeddings must be true or false, not {shown(tied)}")
    return Model(
        name=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        qk_dim=qk_dim,
        v_dim=number("v_head_dim", default=head_dim) if latent else head_dim,
        ffn=ffn,
        gated=family.gated,
        vocab=vocab,
        tied=family.tied if tied is None else tied,
        experts=experts,
        top_k=top_k,
        expert_ffn=expert_ffn,
        shared_experts=number("n_shared_experts", "num_shared_experts")
        or _shared(number("shared_expert_intermediate_size"), expert_ffn, name),
        dense_layers=_dense_layers(config, number("first_k_dense_replace"), layers) if experts else 0,
        window=number("sliding_window") if config.get("use_sliding_window", True) else 0,
        full_every=max(
            number("full_attention_interval", "sliding_window_pattern", default=_interval(config, layers)), 1
        ),
        q_rank=number("q_lora_rank") if latent else 0,
        kv_rank=latent,
        rope_dim=rope,
        positions=number(family.positions) if family.positions else 0,
        source=str(config.get("source", "")),
        left_out=towers,
    )


def _gated(config: Mapping[str, Any]) -> bool:
    """Whether a description without a model type has gates, by its activation."""
    act = config.get("hidden_act") or config.get("activation_function") or config.get("activation")
    return str(act).lower().startswith(_GATED)


def _shared(width: int, expert: int, name: str) -> int:
    """How many experts of the usual width a shared one of its own width (Qwen) makes."""
    if width and (not expert or width % expert):
        raise ConfigError(
            f"model {name}: shared_expert_intermediate_size {width} is no multiple of the experts' {expert}, which is"
            " not known yet; take a preset, or a multiple"
        )
    return width // expert if width else 0


def _dense_layers(config: Mapping[str, Any], first: int, layers: int) -> int:
    """First layers without experts, by their number or by the list of the layers' types."""
    kinds = config.get("mlp_layer_types")
    if not isinstance(kinds, list) or not kinds:
        return min(first, layers)
    return next((k for k, kind in enumerate(kinds) if kind != "dense"), layers)


def _interval(config: Mapping[str, Any], layers: int) -> int:
    """Every how many layers one attends to everything, by a list of the layers' types."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and kinds:
        full = sum(k == "full_attention" for k in kinds)
        return round(len(kinds) / full) if full else layers
    return layers if config.get("sliding_window") and config.get("use_sliding_window", True) else 1
