"""Steps behind seqio's cache placeholder: EOS and our noise are in the rows, anything else is refused before tokenizing."""

import functools

import numpy as np
import pytest

from t5x_like.data import mixing, rows
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.tokenizers.vocabularies import EOS
from t5x_like.evaluation.examples import read_questions
from tests.tiny_cache import documents

TEXTS = documents(30, 7)
LENGTHS = {"inputs": 48, "targets": 24}


@pytest.fixture(scope="module")
def register():
    """Returns a function that registers a task of TEXTS with steps behind the placeholder, and returns its name."""
    import seqio
    import tensorflow as tf

    from t5x_like.tasks import vocabularies

    def source(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices({"text": TEXTS})

    def add(name, *behind, keys=None, before=(), placeholder=True, add_eos=True):
        feature = seqio.Feature(vocabularies.BYTES, add_eos=add_eos)
        keys = keys or {"inputs": None, "targets": "text"}
        place = [seqio.CacheDatasetPlaceholder()] if placeholder else []
        seqio.TaskRegistry.add(
            name,
            source=seqio.FunctionDataSource(source, splits=("train",)),
            preprocessors=[
                functools.partial(seqio.preprocessors.rekey, key_map=keys),
                seqio.preprocessors.tokenize,
                *before,
                *place,
                *behind,
            ],
            output_features={"inputs": feature, "targets": feature},
            metric_fns=[],
        )
        return name

    return add


def built(name, root) -> TokenCache:
    from t5x_like.tasks.caching import build

    build.build(name, "train", "t5x_like.tasks.pretraining", str(root), workers=1)
    return TokenCache(name, "train", root=str(root))


def make_rows(cache, kind=rows.SpanCorruption, **options):
    make = functools.partial(kind, inputs_length=48, targets_length=24, **options)
    return mixing.mix_tasks(lambda cache: make(cache), lambda task: cache, cache.task)


def seqio_examples(name, lengths) -> list[dict[str, np.ndarray]]:
    import seqio

    return list(seqio.TaskRegistry.get(name).get_dataset(lengths, "train", shuffle=False).as_numpy_iterator())


def real(batch, side) -> list[list[int]]:
    """The tokens of a side that are not padding, by row."""
    name = "encoder_input_tokens" if side == "inputs" else "decoder_target_tokens"
    segments = batch[name.replace("input_tokens", "segment_ids").replace("target_tokens", "segment_ids")]
    return [tokens[segment > 0].tolist() for tokens, segment in zip(batch[name], segments, strict=True)]


def test_the_idiom_of_t5_has_noise_and_eos_and_equals_seqio(register, tmp_path):
    import seqio

    from t5x_like.tasks import preprocessors

    name = register("t5_idiom", preprocessors.span_corruption, seqio.preprocessors.append_eos_after_trim)
    cache = built(name, tmp_path)
    assert cache.features == ["targets"] and EOS not in cache.tokens("targets")[:]
    spans = make_rows(cache)
    batch = spans.fetch(np.arange(len(spans)), np.zeros(len(spans), int), 0)
    sentinels = cache.vocabulary.first_sentinel
    for side, length in LENGTHS.items():
        got = real(batch, side)
        assert all(len(x) <= length and x[-1] == EOS and EOS not in x[:-1] and sentinels in x for x in got)
        assert got == [example[side].tolist() for example in seqio_examples(name, LENGTHS)]


def test_other_noise_than_the_task_declares_is_refused(register, tmp_path):
    import seqio

    from t5x_like.tasks import preprocessors
    from t5x_like.tasks.caching import live

    step = functools.partial(preprocessors.span_corruption, noise_density=0.5)
    cache = built(register("declared", step, seqio.preprocessors.append_eos), tmp_path)
    assert len(make_rows(cache, noise_density=0.5, mean_span_length=3))
    looked_at = live.read_task(lambda task: TokenCache(task, "train"), "declared", documents=10)
    for source in (cache, looked_at):
        with pytest.raises(
            ValueError, match=r"SpanCorruption\(.*noise_density=0.5\) behind .* are .*noise_density=0.15"
        ):
            make_rows(source)
        with pytest.raises(
            ValueError, match=r"but ROWS are PackedExamples\(\); take the file .* ROWS = @rows.SpanCorruption"
        ):
            make_rows(source, rows.PackedExamples)
    with pytest.raises(ValueError, match="task 'declared' has noise"):
        read_questions(cache, seq2seq=False)


def test_objectives_behind_the_placeholder_are_declared(register, tmp_path):
    from t5x_like.tasks import preprocessors

    lengths = {"inputs_length": 48, "targets_length": 24}
    name = register("with_objective", preprocessors.objective(functools.partial(rows.SpanCorruption, **lengths)))
    cache = built(name, tmp_path)
    assert len(make_rows(cache))
    with pytest.raises(ValueError, match="inputs_length=48.0"):
        mixing.mix_tasks(
            functools.partial(rows.SpanCorruption, inputs_length=64, targets_length=24), lambda task: cache, name
        )


@pytest.mark.parametrize("step", ["append_eos", "append_eos_after_trim"])
def test_eos_behind_the_placeholder_is_in_the_examples(register, tmp_path, step):
    import seqio

    keys = {"inputs": "text", "targets": "text"}
    name = register(f"behind_{step}", getattr(seqio.preprocessors, step), keys=keys)
    cache = built(name, tmp_path)
    ends = cache.offsets("targets")[1:] - 1
    assert (cache.tokens("targets")[ends] == EOS).all() and len(ends) == len(TEXTS)
    lengths = {"inputs": 100, "targets": 150}
    packed = make_rows(cache, lambda cache, **_: rows.PackedExamples(cache, *lengths.values()))
    batch = packed.fetch(np.arange(len(packed)), np.zeros(len(packed), int), 0)
    for side, prefix in (("inputs", "encoder_input"), ("targets", "decoder_target")):
        tokens, segments = batch[f"{prefix}_tokens"], batch[f"{prefix.split('_')[0]}_segment_ids"]
        got = [
            row[segment == n].tolist()
            for row, segment in zip(tokens, segments, strict=True)
            for n in range(1, segment.max() + 1)
        ]
        assert sorted(got) == sorted(example[side].tolist() for example in seqio_examples(name, lengths))
        assert all(x[-1] == EOS for x in got) == (step == "append_eos_after_trim")
    if step == "append_eos_after_trim":
        questions = read_questions_of(cache)
        assert max(map(len, questions)) == 20 and all(question[-1] == EOS for question in questions)


def read_questions_of(cache) -> list[tuple[int, ...]]:
    """The contexts of an encoder, cut to 20 ids."""
    from t5x_like.evaluation import examples

    split = examples.split_pair
    made = (examples.make_question(cache, number, {}, True, 20, split(cache, number)) for number in range(len(TEXTS)))
    return [question.context for question in made]


def unknown(dataset):
    return dataset


def refused():
    """{name: (arguments of `register`, message)}."""
    import seqio

    from t5x_like.tasks import preprocessors

    eos, spans = seqio.preprocessors.append_eos, preprocessors.span_corruption
    causal = preprocessors.objective(functools.partial(rows.CausalLM, length=16))
    return {
        "unknown": (
            (unknown,),
            {},
            r"step .*test_steps.unknown is behind seqio.CacheDatasetPlaceholder, where only append_eos",
        ),
        "unknown_after": ((spans, eos, unknown), {}, "test_steps.unknown is behind"),
        "wrong_order": ((eos, spans), {}, "preprocessors.span_corruption is behind"),
        "of_seqio": ((seqio.preprocessors.tokenize,), {}, "seqio.preprocessors.tokenize is behind"),
        "two_ends": ((spans, eos, eos), {}, "rows of SpanCorruption do not do what step .*append_eos"),
        "no_end": ((spans,), {}, "put seqio.preprocessors.append_eos_after_trim behind span_corruption"),
        "add_eos": ((spans, eos), {"add_eos": False}, "add_eos=False for inputs, targets"),
        "causal": ((causal, eos), {}, "rows of CausalLM do not do what"),
        "cached": ((), {"before": (spans,), "placeholder": False}, "noise of step .*span_corruption would be cached"),
        "a_function": ((preprocessors.objective(lambda cache: cache),), {}, "is not a class of t5x_like.data.rows"),
    }


def test_what_cannot_run_behind_the_placeholder_is_refused_before_tokenizing(register, tmp_path):
    for name, (steps, options, message) in refused().items():
        with pytest.raises(ValueError, match=message):
            built(register(f"refused_{name}", *steps, **options), tmp_path)
    import seqio

    seqio.MixtureRegistry.add("refused_mixture", [(register("first_of_mixture"), 1.0), ("refused_unknown", 1.0)])
    with pytest.raises(ValueError, match="task 'refused_unknown': step .* is behind"):
        built("refused_mixture", tmp_path)
    assert not list(tmp_path.iterdir())
