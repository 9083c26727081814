"""The content of a cache: equal bytes however it is built, the fields that metrics read, masks, and bad input."""

import re

import numpy as np
import pytest

from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.tokenizers import vocabularies
from tests.data.cache.cache_builds import MODULE, built, content, documents, error_of_build, start
from tests.data.tokenizers import tiny_tokenizers

SHAPES = ("pairs_judged", "pairs_no_copy", "pairs_both_eos", "pairs_no_eos", "pairs_small_model", "masked")


@pytest.mark.parametrize("task", SHAPES)
def test_tokenizing_outside_tf_gives_the_same_as_seqio(task, tmp_path):
    apart, inside = (built(tmp_path / str(way), task, everything_in_tf=way) for way in (False, True))
    assert content(apart) == content(inside)
    assert documents(apart)


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path):
    one, three = (built(tmp_path / str(workers), "long", workers=workers) for workers in (1, 3))
    assert content(one) == content(three)
    assert one.manifest["documents"] == 30


def test_shards_are_in_order_and_dropped_documents_are_counted(tmp_path):
    cache = built(tmp_path, "pairs_judged")
    numbers = [int(example["answer"]) for example in cache.examples()]
    assert numbers == sorted(numbers) and len(numbers) == cache.manifest["documents"] == 5 + 45 + 85
    assert cache.manifest["dropped"] == {"made_up.rule": 1 + 2}


def test_fields_for_metrics_are_in_the_order_of_documents(tmp_path):
    cache = built(tmp_path, "pairs_judged")
    for example, ids in zip(cache.examples(), documents(cache), strict=True):
        assert example.keys() == {"answer", "inputs_pretokenized", "targets_pretokenized"}
        assert cache.vocabulary.encode(example["targets_pretokenized"]) == ids[:-1]
    squad, weighted = cache.manifest["metrics"]
    assert squad == {"function": "t5x_like.text_metrics.answers:squad", "options": {}}
    assert weighted["function"].endswith(":weighted") and weighted["options"] == {"weight": 2.0}
    assert cache.manifest["postprocess"]["function"].endswith("made_up_cache_tasks:answer")


def test_a_task_without_metrics_keeps_only_tokens(tmp_path):
    cache = built(tmp_path, "pairs")
    assert not (cache.folder / "examples.jsonl").exists()
    with pytest.raises(ValueError, match="task 'pairs' has no metric_fns"):
        next(cache.examples())


def test_a_mask_is_uint8_and_has_no_text_bytes(tmp_path):
    cache = built(tmp_path, "masked")
    assert cache.tokens("targets_mask").dtype == np.uint8
    assert documents(cache, "targets_mask") == [[0] * 9 + [1] * 6]
    assert cache.manifest["features"]["targets_mask"]["text_bytes"] == 0
    assert cache.vocabulary.fingerprint == vocabularies.ByteVocabulary().fingerprint
    assert next(cache.examples())["messages"] == ["question", "answer"]


ERRORS = {
    "lambda_metric": "metric_fns of task 'lambda_metric': <function .*lambda.* cannot be imported as",
    "wide_mask": r"feature 'targets_mask' .* is named as a mask, but has a PassThroughVocabulary of 3 ids",
    "missing": "no field 'target' after the task's steps, the examples have answer, inputs, targets",
    "missing_in_step": "reads the field 'text', the examples have answer, inputs, targets",
    "failing": "shard 'part-0': reading failed at document 70: RuntimeError: the disk is on fire",
}


@pytest.mark.parametrize("task", ERRORS)
def test_a_failed_build_says_why(task, tmp_path):
    message = error_of_build(tmp_path, task)
    assert re.search(ERRORS[task], message), message
    assert not list(tmp_path.rglob("manifest.json"))


def test_invalid_utf8_is_read_as_in_seqio(tmp_path):
    apart, inside = (built(tmp_path / str(way), "bad_bytes", everything_in_tf=way) for way in (False, True))
    assert content(apart) == content(inside)
    assert apart.vocabulary.decode(documents(apart)[1]) == "bad �� bytes \0 and �"


def test_a_document_of_100_megabytes_is_a_document(tmp_path):
    cache = built(tmp_path, "huge")
    assert np.diff(cache.offsets("targets")).tolist() == [100_000_001, 6]


def test_an_empty_split_is_rejected_with_the_dropped_counts(tmp_path):
    message = error_of_build(tmp_path, "pairs", "empty")
    assert "task 'pairs' has no example in split 'empty', {'made_up.rule': 3} were dropped" in message
    assert not list(tmp_path.rglob(".building_*"))


def test_a_changed_tokenizer_never_reads_an_old_cache(tmp_path):
    arguments = {"folder": str(tmp_path / "tokenizer")}
    (tmp_path / "tokenizer").mkdir()
    file = tmp_path / "tokenizer" / "tokenizer.json"
    file.write_text(tiny_tokenizers.byte_level().to_str())
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')

    def cache():
        return TokenCache("changing", "train", MODULE, str(tmp_path), arguments=arguments)

    def build(**options):
        process = start(tmp_path, "changing", arguments=arguments, **options)
        process.join()
        return cache().manifest

    first = build()
    assert first["inputs"]["versions"]["tokenizers"]
    assert cache().find() is not None
    tiny_tokenizers.wordpiece().save(str(file))
    assert cache().find() is None
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text('{"eos_token": "[SEP]"}')
    second = build()
    assert second["fingerprint"] != first["fingerprint"]
    assert second["vocab_size"] != first["vocab_size"]
