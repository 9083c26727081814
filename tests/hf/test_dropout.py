"""Dropout rates of config.json reach the modules that drop in the original, and return to config.json."""

import jax
import numpy as np
import pytest

from t5x_like import hf
from t5x_like.hf import modules
from t5x_like.models import blocks
from tests.hf import folders
from tests.hf.folders import FIXTURES, config

# fixture -> (fields, rates of: embeddings, output, residual, attention, hidden units)
RATES = {
    "t5": ({"dropout_rate": 0.2}, (0.2, 0.2, 0.2, 0.2, 0.2)),
    "switch": ({"dropout_rate": 0.2}, (0.2, 0.2, 0.2, 0.2, 0.2)),
    "gpt2": ({"embd_pdrop": 0.1, "resid_pdrop": 0.2, "attn_pdrop": 0.3}, (0.1, 0.0, 0.2, 0.3, 0.0)),
    "gpt_neox": ({"hidden_dropout": 0.2, "attention_dropout": 0.3}, (0.2, 0.0, 0.2, 0.3, 0.0)),
    "bloom": ({"hidden_dropout": 0.2, "attention_dropout": 0.3}, (0.0, 0.0, 0.2, 0.3, 0.0)),
    "opt": ({"dropout": 0.2, "attention_dropout": 0.3}, (0.0, 0.0, 0.2, 0.3, 0.0)),
    "llama": ({"attention_dropout": 0.3}, (0.0, 0.0, 0.0, 0.3, 0.0)),
    "gemma3_text": ({"attention_dropout": 0.3}, (0.0, 0.0, 0.0, 0.3, 0.0)),
    "phi3": ({"resid_pdrop": 0.2, "attention_dropout": 0.3}, (0.0, 0.0, 0.2, 0.3, 0.0)),
    "bart": (
        {"dropout": 0.2, "attention_dropout": 0.3, "activation_dropout": 0.4},
        (0.2, 0.0, 0.2, 0.3, 0.4),
    ),
    "bert": ({"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}, (0.2, 0.0, 0.2, 0.3, 0.0)),
    "xlnet": ({"dropout": 0.2}, (0.2, 0.2, 0.2, 0.2, 0.2)),
}
DEFAULTS = {"t5": 0.1, "gpt2": 0.1, "bert": 0.1, "bart": 0.1, "xlnet": 0.1, "opt": 0.1, "llama": 0.0, "albert": 0.0}


def rates_of(model):
    """Returns the rates of the last tower and of its last layer."""
    tower = getattr(model, "decoder", None) or model.encoder
    layer = modules.unstack_layers(tower)[-1]
    layer = layer if isinstance(layer, blocks.Block) else layer.block
    hidden = getattr(layer.mlp, "dropout", RATES["t5"][1][4])  # experts have none
    return tower.dropout, tower.output_dropout, layer.dropout, layer.mixer.dropout, hidden


@pytest.mark.parametrize("name", RATES)
def test_rates_are_imported_and_exported(name):
    fields, rates = RATES[name]
    names = folders.tensor_names(name)
    family, model = hf.build_model(config(name) | fields, names=names)
    assert rates_of(model) == rates
    exported = hf.build_config(model, family.model_type)[1]
    assert {field: exported[field] for field in fields} == fields


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_absent_rate_is_the_default_of_its_family(name):
    values = {key: x for key, x in config(name).items() if "drop" not in key}
    model = hf.build_model(values, names=folders.tensor_names(name))[1]
    tower = getattr(model, "decoder", None) or model.encoder
    assert modules.unstack_layers(tower)[0].dropout == DEFAULTS[name]


def test_imported_dropout_acts_in_training_only():
    model, params = hf.load(FIXTURES / "gpt2")
    batch = folders.batch(folders.expected("gpt2"), ("decoder",))
    plain = model.apply({"params": params}, batch)
    one, two = (model.apply({"params": params}, batch, train=True, rngs={"dropout": jax.random.key(i)}) for i in (1, 2))
    assert not np.allclose(one, two) and not np.allclose(one, plain)


def test_a_rate_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"resid_pdrop=1.0 is not a number from 0 to 0.999"):
        hf.build_model(config("gpt2") | {"resid_pdrop": 1.0}, names=folders.tensor_names("gpt2"))
