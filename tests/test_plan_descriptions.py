"""Descriptions of models and clusters: presets, files, and what is wrong with them."""

import json

import pytest

from tunewright.envs.parallelism import clusters, models
from tunewright.errors import ConfigError, UnknownNameError


@pytest.mark.parametrize("name", [n for n, p in models.presets().items() if "parameters" in p])
def test_presets_have_the_published_number_of_weights(name):
    preset, model = models.presets()[name], models.load(name)
    assert model.params == pytest.approx(preset["parameters"], rel=0.02)
    if "active" in preset:  # published counts differ in whether they include the embedding
        assert model.active_params == pytest.approx(preset["active"], rel=0.16)


def test_every_preset_says_where_it_is_from():
    assert all(p["source"] for p in models.presets().values())
    assert all(p["source"] for p in clusters.presets().values())


def test_a_config_json_is_read(tmp_path):
    config = {
        "model_type": "llama", "hidden_act": "silu", "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
        "num_key_value_heads": 2, "intermediate_size": 1024, "vocab_size": 1000,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    model = models.load(str(path))
    by_hand = 4 * (512 * 512 * 2 + 512 * 2 * 2 * 64 + 3 * 512 * 1024 + 2 * 512) + 2 * 1000 * 512
    assert model.params == by_hand and models.load(str(tmp_path)) == model


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hidden_size": 8}, "lacks num_hidden_layers or n_layer or num_layers, num_attention_heads"),
        ({"hidden_size": 8, "n_layer": 1, "n_head": 3, "vocab_size": 5}, "8 is not a multiple of 3 heads"),
        ({"hidden_size": 0, "n_layer": 1, "n_head": 3, "vocab_size": 5}, "hidden = 0"),
        (
            {"hidden_size": 8, "n_layer": 1, "n_head": 2, "vocab_size": 5, "num_experts": 4, "num_experts_per_tok": 9},
            "1 to 4",
        ),
        (
            {"hidden_size": 8, "n_layer": 1, "n_head": 4, "num_key_value_heads": 3, "vocab_size": 5},
            "not a multiple of 3 key",
        ),
    ],
)
def test_bad_descriptions_are_named(config, said):
    with pytest.raises(ConfigError, match=said):
        models.from_config(config, "x")


def test_unknown_names_suggest_neighbours(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'llama3-70b'"):
        models.load("lama3-70b")
    with pytest.raises(UnknownNameError, match="Did you mean 'h100'"):
        clusters.load("h10:8")
    with pytest.raises(ConfigError, match="how many GPUs"):
        clusters.load("h100")
    with pytest.raises(ConfigError, match="there is no model description"):
        models.load(str(tmp_path / "none.json"))


def test_clusters_of_a_file(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(
        'name = "mine"\nbetween_gb_s = 5.0\n[[node]]\nkind = "h100"\ngpus = 16\nmemory_gb = 96.0\n[[node]]\nkind = "a100"\ngpus = 8\n'
    )
    cluster = clusters.load(str(path))
    assert (
        cluster.gpus == 24
        and cluster.groups[0].memory_gb == 96.0
        and not cluster.uniform
        and cluster.between_gb_s == 5.0
    )
    with pytest.raises(ConfigError, match="2 kinds of nodes"):
        _ = cluster.nodes
    path.write_text('[[node]]\nkind = "mine"\ngpus = 16\n')
    with pytest.raises(ConfigError, match="per_node, bf16_tflops"):
        clusters.load(str(path))
    path.write_text('[[node]]\nkind = "h100"\ngpus = -1\n')
    with pytest.raises(ConfigError, match="gpus must be a whole number above 0"):
        clusters.load(str(path))
