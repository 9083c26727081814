"""The heads of T5, mT5, umT5 and Switch: tied or not, dividing by sqrt(d_model) or not, as the writing version computes them."""

import numpy as np
import pytest

from t5x_like import hf
from t5x_like.hf import families, modules, tensors
from tests.hf.folders import FIXTURES, config

MODEL_TYPES = {"t5": "t5", "mt5": "mt5", "umt5": "umt5", "switch_transformers": "switch"}
V4, V5 = "4.57.6", "5.23.0"
# model_type, version, tie_word_embeddings, scale_decoder_outputs, is there an lm_head -> (tied, divides)
HEADS = [
    ("t5", V4, True, None, False, (True, True)),
    ("t5", V4, True, None, True, (True, True)),  # the tensor is a copy
    ("t5", V4, False, None, True, (False, False)),
    ("t5", V4, True, False, False, (True, True)),  # version 4 does not read version 5's field
    ("t5", V5, True, True, False, (True, True)),
    ("t5", V5, True, False, False, (True, False)),  # T5Config(tie_word_embeddings=False)
    ("t5", V5, True, False, True, (False, False)),
    ("t5", V5, True, True, True, (False, True)),
    ("mt5", V4, True, None, False, (True, True)),
    ("mt5", V4, False, None, True, (False, False)),
    ("mt5", V5, True, None, False, (True, False)),
    ("mt5", V5, True, None, True, (False, False)),
    ("umt5", V4, None, None, False, (True, True)),
    ("umt5", V4, False, None, True, (False, False)),
    ("umt5", V5, True, None, False, (True, True)),
    ("umt5", V5, True, None, True, (False, True)),
    ("switch_transformers", V5, True, None, False, (True, True)),
    ("switch_transformers", V5, False, None, True, (False, False)),
]


def model_of(model_type, version, tie, scale, own):
    changes = {"tie_word_embeddings": tie, "scale_decoder_outputs": scale, "transformers_version": version}
    values = config(MODEL_TYPES[model_type]) | changes
    values = {name: x for name, x in values.items() if x is not None}
    return families.build_model(values, names=["shared.weight", *["lm_head.weight"] * own, *"xyzabcdefg"])[1]


@pytest.mark.parametrize("case", HEADS, ids=lambda case: "-".join(map(str, case[:5])))
def test_a_head_is_that_of_the_version_which_wrote_the_folder(case):
    head = model_of(*case[:5]).head
    assert (modules.class_name(head) == "Tied", head.scale is None) == case[5]


# What an export writes. Both versions read it alike, except for umt5, which version 5 always divides.
EXPORTED = {(True, True): (True, None), (True, False): (False, False), (False, False): (False, None)}


@pytest.mark.parametrize("case", HEADS, ids=lambda case: "-".join(map(str, case[:5])))
def test_an_exported_head_is_imported_again(case):
    model_type, _, _, _, _, head = case
    model = model_of(*case[:5])
    if (model_type, head) == ("mt5", (True, True)):
        with pytest.raises(ValueError, match="as 'mt5' it would differ: .* export as model_type t5"):
            hf.build_config(model, "mt5")
        model_type = "t5"
    family, values = hf.build_config(model, model_type)  # reads the fields again and compares
    written = values["tie_word_embeddings"], values.get("scale_decoder_outputs")
    assert written == EXPORTED.get(head, (False, True))
    assert ("lm_head.weight" in family.table(model).copies) == (head == (True, False))


def test_a_tied_head_that_does_not_divide_is_exported_with_a_copy_of_the_table(tmp_path):
    model, params = hf.load(FIXTURES / "mt5_v5")
    hf.save(model, params, tmp_path / "out", "mt5", config("mt5_v5"))
    stored = tensors.list_tensors(tmp_path / "out")
    np.testing.assert_array_equal(stored["lm_head.weight"].read(), stored["shared.weight"].read())
    again, same = hf.load(tmp_path / "out")
    assert modules.is_equivalent(again, model) and "head" not in same
    np.testing.assert_array_equal(same["embed"]["table"], params["embed"]["table"])
