"""Descriptions of models and clusters: counted right, or refused in one line."""

import json

import pytest

from tunewright.envs.parallelism import clusters, families, models
from tunewright.envs.parallelism.cli import serve, show_train, train
from tunewright.envs.parallelism.jobs import fixed_of, job_of
from tunewright.errors import ConfigError, TunewrightError

LLAMA = {
    "model_type": "llama", "hidden_act": "silu", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip
EXPERTS = {
    "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 151936, "num_experts": 60,
    "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "intermediate_size": 5632, "hidden_act": "silu",
}  # fmt: skip


def refusal(config, name="x"):
    with pytest.raises(ConfigError) as told:
        models.from_config(config, name)
    assert "\n" not in str(told.value)
    return str(told.value)


@pytest.mark.parametrize(("config", "billions", "cached"), [
    (LLAMA, 8.03, 131072),
    # Falcon: one head of keys and values, or some; embeddings tied by its class
    ({"model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32, "multi_query": True,
      "vocab_size": 65024}, 6.92, 8192),
    ({"model_type": "RefinedWeb", "hidden_size": 8192, "n_head": 128, "n_head_kv": 8, "n_layer": 60, "vocab_size": 65024},
     41.3, 122880),
    ({"model_type": "gemma", "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "head_dim": 256,
      "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 256000, "hidden_act": "gelu"}, 8.54, 458752),
    # an expert that every token uses, four times as wide as the others
    ({"model_type": "qwen2_moe", **EXPERTS, "shared_expert_intermediate_size": 5632, "decoder_sparse_step": 1}, 14.32, 196608),
    ({**LLAMA, "tie_word_embeddings": True}, 7.50, 131072),
    # gates do not depend on the activation
    ({**LLAMA, "hidden_act": "gelu"}, 8.03, 131072),
])  # fmt: skip
def test_known_types_are_counted_right(config, billions, cached):
    model = models.from_config(config)
    assert model.params / 1e9 == pytest.approx(billions, rel=0.005)
    assert model.layers * model.kv_bytes * 2 == cached


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_every_family_is_counted_as_its_class_counts(every):
    """Weights of the classes in transformers, built without memory; each takes a while to import."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    compared = 0
    for kind in [*families.FAMILIES][::every]:
        if kind not in CONFIG_MAPPING:
            continue
        own = {"head_dim": 128} if kind == "glm4_moe" else {"num_experts_per_tok": 6} if kind == "deepseek_v2" else {}
        own |= {"num_key_value_heads": 8} if kind == "nemotron" else {}
        description = CONFIG_MAPPING[kind](**own)
        with torch.device("meta"):
            real = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(description).parameters())
        counted = models.from_config(json.loads(description.to_json_string(use_diff=False)), kind).params
        # the smallest of these has 15 million weights, of which learned positions and norms are a part
        assert counted == pytest.approx(real, rel=0.01), kind
        compared += 1
    assert compared > 45 // every


@pytest.mark.parametrize(
    "kind", ["no_such_model", "nemotron_h", "mamba2", "jamba", "llama4_text", "", 7, ["llama"], {}]
)
def test_an_unknown_model_type_is_refused_with_those_known(kind):
    said = refusal({**LLAMA, "model_type": kind})
    assert "not known yet" in said and "take a preset" in said and "llama" in said and "qwen3_moe" in said


@pytest.mark.parametrize("config", [
    {"model_type": "t5", "d_model": 1024, "num_heads": 128, "num_layers": 24, "vocab_size": 32128},
    {**LLAMA, "is_encoder_decoder": True},
])  # fmt: skip
def test_an_encoder_decoder_is_refused_with_the_reason(config):
    assert "is an encoder-decoder" in refusal(config)


@pytest.mark.parametrize("field", [
    {"block_configs": [{"attention": {"no_op": True}}]}, {"hybrid_override_pattern": "ME*"}, {"mamba_num_heads": 64},
    {"linear_num_key_heads": 16}, {"layer_types": ["full_attention", "linear_attention"]}, {"moe_num_experts": 64},
    {"interleave_moe_layer_step": 2}, {"decoder_sparse_step": 2}, {"mlp_only_layers": [3]}, {"top_k_experts": 8},
    {"mlp_layer_types": ["dense", "sparse", "dense"]}, {"word_embed_proj_dim": 512}, {"ffn_config": {"ffn_hidden_size": 1}},
    {"hidden_size_per_layer_input": 256}, {"num_kv_shared_layers": 10}, {"state_size": 16}, {"intermediate_size_mlp": 9},
])  # fmt: skip
@pytest.mark.parametrize("kind", ["llama", None])
def test_a_field_that_changes_the_size_and_is_not_read_is_named(field, kind):
    (name,) = field
    described = {k: v for k, v in LLAMA.items() if kind or k != "model_type"}
    assert name in refusal({**described, **field})


def test_fields_that_change_nothing_are_no_reason_to_refuse():
    same = {
        "block_configs": None, "mlp_only_layers": [], "decoder_sparse_step": 1, "moe_layer_freq": 1, "mamba_num_heads": 0,
        "layer_types": ["full_attention", "sliding_attention"], "word_embed_proj_dim": 4096, "is_encoder_decoder": False,
        "mlp_layer_types": ["dense"] * 32, "num_nextn_predict_layers": 1,
    }  # fmt: skip
    assert models.from_config({**LLAMA, **same}).params == models.from_config(LLAMA).params


def test_a_list_of_layers_says_which_have_no_experts():
    listed = {**EXPERTS, "model_type": "qwen3_moe", "mlp_layer_types": ["dense"] * 2 + ["sparse"] * 22}
    assert models.from_config(listed).dense_layers == 2


def test_what_sees_beside_the_language_model_is_named(tmp_path, capsys):
    from rich.console import Console

    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llava", "text_config": LLAMA, "vision_config": {"hidden_size": 1024}}))
    document = train(str(path), "h100:8", global_batch=16, seq=2048)
    assert document["left_out"] == ["vision_config"]
    show_train(Console(width=120), document)
    assert "not counted: vision_config" in capsys.readouterr().out
    served = serve(str(path), "h100:8", rate=1, isl=1000, osl=200)
    assert served["left_out"] == ["vision_config"]
    assert "left_out" not in train("llama3-8b", "h100:8", global_batch=16, seq=2048)


HUGE = int("9" * 4000) ** 2


@pytest.mark.parametrize(
    "value",
    [-1, 10**30, HUGE, float("nan"), float("inf"), 1e30, True, "x", [1], {"a": 1}, 1.5],
    ids=lambda v: str(v)[:9] if v is not HUGE else "huge",
)
@pytest.mark.parametrize(
    "field", ["num_hidden_layers", "hidden_size", "num_key_value_heads", "vocab_size", "sliding_window"]
)
def test_wrong_values_are_named_in_one_line(field, value):
    said = refusal({**LLAMA, field: value})
    assert len(said) < 400


def test_files_that_no_reader_can_take(tmp_path):
    path, nodes = tmp_path / "config.json", tmp_path / "cluster.toml"
    for text in ("[" * 100_000, '{"a":' * 100_000, json.dumps(LLAMA).replace("4096", "9" * 5000), "{", "[1]", ""):
        path.write_text(text)
        with pytest.raises(ConfigError) as told:
            models.load(str(path))
        assert "\n" not in str(told.value) and len(str(told.value)) < 600
    for text in (
        "node = " + "[" * 5000 + "]" * 5000, "node = [1, 2]", "node = 3", '[[node]]\nkind = ["h100"]\ngpus = 8',
        '[[node]]\nkind = "h100"\ngpus = ' + "9" * 5000, f'[[node]]\nkind = "h100"\ngpus = {10**30}',
        '[[node]]\nkind = "h100"\ngpus = true', '[[node]]\nkind = "h100"\ngpus = 8\ngpu = 5',
        '[[node]]\nkind = "h100"\ngpus = 8\nmemory_gb = nan', '[[node]]\nkind = "h100"\ngpus = 8\nlink_gb_s = 1e300',
        'between_gb_s = true\n[[node]]\nkind = "h100"\ngpus = 8',
    ):  # fmt: skip
        nodes.write_text(text)
        with pytest.raises(TunewrightError) as told:
            clusters.load(str(nodes))
        assert "\n" not in str(told.value) and len(str(told.value)) < 600


@pytest.mark.parametrize("count", ["²", "٣", "0", "-1", "1e3", "9" * 5000, str(10**30), ""], ids=lambda v: v[:9])
def test_counts_of_gpus_are_plain_numbers(count):
    with pytest.raises(ConfigError, match="how many GPUs") as told:
        clusters.load(f"h100:{count}")
    assert len(str(told.value)) < 200


def test_flags_have_bounds():
    for seq, batch in ((10**30, 8), (2048, 10**30), (-1, 8), (2048, -1)):
        with pytest.raises(ConfigError, match="at least 1 and at most"):
            job_of("llama3-8b", "h100:8", seq=seq, global_batch=batch)
    for text in ("tp=²", f"tp={'9' * 5000}", "tp=x"):
        with pytest.raises(ConfigError, match="takes a whole number"):
            fixed_of([text])
    for load in ({"rate": 1e30}, {"isl": 10**30}, {"osl": 10**30}, {"rate": float("nan")}):
        with pytest.raises(ConfigError, match="must be"):
            serve("llama3-8b", "h100:8", **{"rate": 1.0, "isl": 100, "osl": 100, **load})
