"""A saved vocabulary may come from elsewhere: its numbers are checked before anything is allocated."""

import json

import pytest

from t5x_like.data.tokenizers import loading
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from tests.data.tokenizers import tiny_tokenizers


@pytest.fixture(params=["extra_ids", "vocab_size", "kind"])
def saved(request, tmp_path):
    """(folder, a field of its vocabulary.json)."""
    if request.param == "vocab_size":
        TokenizerVocabulary(tiny_tokenizers.byte_level().to_str(), 400, eos=0).save(tmp_path)
    else:
        ByteVocabulary().save(tmp_path)
    return tmp_path, request.param


@pytest.mark.parametrize("value", [None, -1, 10**12, 1.5, "x", [1], {}, True])
def test_other_values_than_saved_ones_are_refused(saved, value):
    folder, field = saved
    path = folder / "vocabulary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=f"{path}(: {field}=| is of kind)"):
        loading.load(folder)
