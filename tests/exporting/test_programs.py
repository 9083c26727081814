"""Programs of prefix language models, text in the loader, and models whose programs need sizes in numbers."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from t5x_like import prompt_batches
from t5x_like.batching import generation
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary, SentencePieceVocabulary
from t5x_like.decoding import processors
from t5x_like.decoding.sampling import Greedy, Sample
from t5x_like.exporting import artifact, lowering, programs, run
from t5x_like.models import moe
from tests import tiny
from tests.data.tokenizers import tiny_tokenizers

TEXTS = ["def f(x):\n    return x", "naïve 日本 🙂", "a", "  two  spaces "]
ANY = dict.fromkeys((programs.BATCH, programs.LENGTH, programs.TARGET_LENGTH))


def vocabularies():
    yield "bytes", ByteVocabulary()
    yield "sentencepiece", SentencePieceVocabulary(tiny_tokenizers.sentencepiece_file("t5"), extra_ids=4)
    llama = tiny_tokenizers.sentencepiece_file("llama")
    yield "sentencepiece_model", SentencePieceModel(llama, 440, eos=2, unk=0, bos=1, add_bos=True, add_eos=True)
    t5 = tiny_tokenizers.unigram()
    yield "tokenizer", TokenizerVocabulary(t5.to_str(), t5.get_vocab_size(), pad=0, eos=1, unk=2)
    gpt = tiny_tokenizers.byte_level(bos="<|end|>")
    yield "tokenizer", TokenizerVocabulary(gpt.to_str(), 384, eos=0, bos=0, add_bos=True)


@pytest.mark.parametrize("kind, vocabulary", vocabularies())
@pytest.mark.parametrize("seq2seq", [False, True])
def test_the_loader_reads_and_writes_text_as_the_vocabulary(kind, vocabulary, seq2seq, tmp_path):
    vocabulary.save(tmp_path / "vocabulary")
    described = artifact.describe_vocabulary(vocabulary, tmp_path, seq2seq)
    assert described["kind"] == kind
    manifest = {"format_version": run.FORMAT_VERSION, "vocabulary": described}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for text in TEXTS:
        ids = run.encode(text, tmp_path)
        assert ids == prompt_batches.prompt_ids({"prompt": text}, vocabulary, seq2seq)
        continuation = [*vocabulary.encode(text), *vocabulary.stop_ids, *vocabulary.encode("more")]
        assert run.decode(continuation, tmp_path) == vocabulary.decode(continuation)


def test_a_prefix_language_model_reads_prompts_bidirectionally():
    vocabulary, model = ByteVocabulary(), tiny.decoder()
    model = model.clone(embed=model.embed.clone(vocab_size=vocabulary.vocab_size))
    params = tiny.init(model, tiny.batch())
    ids = [vocabulary.encode(text) for text in ("def f", "x = 1234")]
    tokens, lengths = run.pad(ids)
    batch = prompt_batches.make_prompt_batch(vocabulary, False, True, ids)
    decode = jax.jit(generation.make_decode_fn(model, vocabulary, Greedy(), 4))
    live = decode(params, batch | {"keys": generation.row_keys(0, [0, 1])})
    predict = jax.jit(programs.predict(model, vocabulary, Greedy(), 4, prefix=True).function)
    assert np.array_equal(predict(programs.flat(params), tokens, lengths, 0)["tokens"], live.tokens_BN)

    prefixes = np.array([2, 3], np.int32)
    score = jax.jit(programs.score(model, prefix=True).function)
    scores = score(programs.flat(params), tokens, lengths, prefixes)["log_probs"]
    prefix_BL = (np.arange(tokens.shape[1]) < prefixes[:, None]).astype(np.int32)
    features = programs.features("decoder", tokens, lengths) | {"decoder_prefix": prefix_BL}
    log_probs_BLV = jax.nn.log_softmax(jax.jit(model.apply)({"params": params}, features))
    for row, (first, length) in enumerate(zip(prefixes, lengths, strict=True)):
        expected = [log_probs_BLV[row, i - 1, tokens[row, i]] for i in range(first, length)]
        np.testing.assert_allclose(scores[row, first:length], expected, rtol=0, atol=1e-5)
        assert not scores[row, :first].any() and not scores[row, length:].any()


def test_a_model_that_needs_its_length_in_numbers_is_exported_for_one():
    model = tiny.decoder(experts=True)
    block = model.decoder.block
    block = dataclasses.replace(block, mlp=dataclasses.replace(block.mlp, dispatch=moe.Capacity()))
    model = model.clone(decoder=model.decoder.clone(block=block))
    params = programs.flat(jax.eval_shape(lambda: tiny.init(model, tiny.batch())))
    program = programs.score(model)
    with pytest.raises(ValueError, match="cannot be exported for any batch size and length.*--length=N"):
        lowering.lower(program, params, ANY, ["cpu"])
    lowered = lowering.lower(program, params, ANY | {programs.LENGTH: 12}, ["cpu"])
    assert [str(size) for size in lowered.exported.out_avals[0].shape] == ["batch", "12"]


def test_a_position_table_without_room_for_any_length_is_refused():
    program = programs.Program("score", "", lambda params, tokens: {}, {"tokens": ("batch", "length")}, {"length": 1})
    with pytest.raises(ValueError, match="length=2 is longer than the 1 tokens"):
        lowering.lower(program, {}, ANY, ["cpu"])


CHANGES = [
    processors.RepetitionPenalty(1.2),
    processors.FrequencyPenalty(0.1),
    processors.PresencePenalty(0.1),
    processors.NoRepeatNGram(2),
    processors.BadWords([[3, 4], [5]]),
    processors.ForcedTokens([7]),
    processors.MinNewTokens(2),
    processors.LogitBias({3: 1.0}),
]


def test_every_sampler_and_processor_takes_any_number_of_rows():
    def choose(logits_BV, tokens_BT, length_B, keys_B):
        history = processors.History(tokens_BT, length_B, length_B)
        for change in CHANGES:
            logits_BV = change(logits_BV, history)
        return Sample(0.7, 5, 0.9, 0.1, 0.9)(keys_B, logits_BV)

    (rows,) = jax.export.symbolic_shape("rows")
    shapes = [((rows, 64), "float32"), ((rows, 8), "int32"), ((rows,), "int32"), ((rows, 2), "uint32")]
    exported = jax.export.export(jax.jit(choose))(*(jax.ShapeDtypeStruct(*shape) for shape in shapes))
    assert [str(size) for size in exported.out_avals[0].shape] == ["rows"]
