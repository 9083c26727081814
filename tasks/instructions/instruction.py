"""Instruction tasks: plain fields of any source, worded by templates, as pairs (`add`) or as chats (`add_chat`).

    add("sums", source, templates, vocabularies.BYTES)
    add("sums_5_shot", source, templates, vocabularies.BYTES, shots=Shots((5,)))
    add("sums_steps", source, renderings.with_steps(templates), vocabularies.BYTES)
    add_chat("sums_chat", source, templates, vocabulary, system="You are good at sums.")

Every example becomes `renditions` consecutive documents, each by another template. What is drawn depends on the example's
fields and the seed alone, so that order and shards change nothing.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from t5x_like.data.tokenizers import chat
from t5x_like.prompting import renderings
from t5x_like.prompting.renderings import Rendition, Shots
from t5x_like.prompting.templates import Template, chosen

TEXT, TEXTS, IDS = tf.TensorSpec((), tf.string), tf.TensorSpec((None,), tf.string), tf.TensorSpec((None,), tf.int32)
Spec = Mapping[str, tf.TensorSpec]


def add(
    name: str,
    source: seqio.DataSource,
    templates: Sequence[Template],
    vocabulary: seqio.Vocabulary,
    shots: Shots = Shots(),  # noqa: B008 - frozen
    renditions: int = 1,
    seed: int = 0,
    metric_fns: Sequence[Callable] = (),
    postprocess_fn: Callable | None = None,
) -> None:
    """Registers a task with the features inputs and targets; the source's fields stay in the examples.

    Raises:
      ValueError: no templates, choices in some of them only, or renditions below 1.
    """
    step = worded(name, source, templates, shots, renditions, seed)
    pairs = functools.partial(
        step, functools.partial(renderings.as_pair, shots=shots), {"inputs": TEXT, "targets": TEXT}
    )
    steps = [pairs, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]
    features = {feature: seqio.Feature(vocabulary, add_eos=True) for feature in ("inputs", "targets")}
    register(name, source, steps, features, metric_fns, postprocess_fn)


def add_chat(
    name: str,
    source: seqio.DataSource,
    templates: Sequence[Template],
    vocabulary: seqio.Vocabulary,
    system: str | None = None,
    shots: Shots = Shots(),  # noqa: B008 - frozen
    renditions: int = 1,
    seed: int = 0,
    metric_fns: Sequence[Callable] = (),
    postprocess_fn: Callable | None = None,
) -> None:
    """As `add`, but a chat with the features targets and targets_mask: the solved examples are turns, all of them learnt."""
    step = worded(name, source, templates, shots, renditions, seed)
    write = functools.partial(as_chat, chat.conversation_ids, Chats(vocabulary), shots, system)
    steps = [functools.partial(step, write, CHAT | {"inputs_pretokenized": TEXT, "targets_pretokenized": TEXT})]
    register(name, source, steps, chat_features(vocabulary), metric_fns, postprocess_fn)


def add_conversations(
    name: str, source: seqio.DataSource, messages: Callable[[Mapping], Sequence[Mapping]], vocabulary: seqio.Vocabulary
) -> None:
    """Registers a task of a source whose examples are chats: `messages(example)` gives [{"role", "content"}, ...]."""
    step = functools.partial(
        mapped, functools.partial(as_ids, chat.conversation_ids, Chats(vocabulary), messages), CHAT, 1
    )
    register(name, source, [step], chat_features(vocabulary), (), None)


CHAT: Spec = {"targets": IDS, "targets_mask": IDS}


def chat_features(vocabulary: seqio.Vocabulary) -> dict[str, seqio.Feature]:
    """What a chat is in a token cache; the end of a turn is in its ids already."""
    mask = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)
    return {"targets": seqio.Feature(vocabulary, add_eos=False), "targets_mask": mask}


def register(name: str, source: seqio.DataSource, steps, features, metric_fns, postprocess_fn) -> None:
    """A task whose examples are ready for the token cache after these steps."""
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[*steps, seqio.CacheDatasetPlaceholder()],
        output_features=features,
        metric_fns=list(metric_fns),
        postprocess_fn=postprocess_fn,
    )


def worded(name: str, source: seqio.DataSource, templates, shots: Shots, renditions: int, seed: int) -> Callable:
    """A step that words examples by templates, up to how they are written: step(write, spec of what it writes, dataset)."""
    templates = tuple(templates)
    choose = functools.partial(chosen, templates, name, renditions, seed)
    choose("")  # refuses what is no choice, before any example is read
    ranked = [template.name for template in templates if template.choices is not None]
    if ranked and len(ranked) < len(templates):
        raise ValueError(
            f"templates {ranked} of task {name!r} have choices, the others none; give them to all or to none"
        )

    def pool() -> list[dict]:
        if not any(shots.counts):
            return []
        if shots.split not in source.splits:
            raise ValueError(
                f"task {name!r} shows examples of Shots.split={shots.split!r}, its source has {list(source.splits)}; name one"
            )
        dataset = source.get_dataset(shots.split, shuffle=False)
        return renderings.pool_of(map(plain, dataset.as_numpy_iterator()), shots, name)

    read = functools.partial(renderings.rendition, choose, shots, name, seed)
    return functools.partial(rendered, read, functools.cache(pool), renditions, {"choices": TEXTS} if ranked else {})


def rendered(
    read, pool, renditions: int, choices: Spec, write, spec: Spec, dataset: tf.data.Dataset
) -> tf.data.Dataset:
    """Every example as `write` writes each of its renditions, beside the fields it has."""
    shown = pool()

    def make(example: Mapping, number: int) -> dict:
        made: Rendition = read(shown, example, number)
        return {"choices": made.asked.get("choices")} | write(made)

    return mapped(make, {**spec, **choices}, renditions, dataset)


def mapped(make, spec: Spec, times: int, dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Every example `times` times, with what make(fields, 0 .. times - 1) adds, in order; fields are texts, numbers, lists."""
    fields = dataset.element_spec
    if odd := [
        name for name, one in fields.items() if not all(isinstance(x, tf.TensorSpec) for x in tf.nest.flatten(one))
    ]:
        raise ValueError(
            f"fields {odd} are ragged or sparse, which templates cannot read; make them texts or JSON first"
        )

    def call(number, *values):
        example = tf.nest.pack_sequence_as(fields, list(values))
        made = make(plain(example), int(number))
        return [as_array(made[name], one) for name, one in spec.items()]

    def step(example, number):
        made = tf.numpy_function(call, [number, *tf.nest.flatten(example)], [one.dtype for one in spec.values()])
        shaped = [tf.ensure_shape(value, one.shape) for value, one in zip(made, spec.values(), strict=True)]
        return {**example, **dict(zip(spec, shaped, strict=True))}

    def numbers(example):
        return tf.data.Dataset.range(times).map(lambda number: (example, number))

    return dataset.flat_map(numbers).map(step)


def plain(value):
    """What tf.data gives, as Python has it: text, numbers, lists."""
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def as_array(value, spec: tf.TensorSpec) -> np.ndarray:
    """A text, texts or ids as a tensor holds them."""
    if spec.dtype != tf.string:
        return np.asarray(value, spec.dtype.as_numpy_dtype)
    return np.array(value.encode() if isinstance(value, str) else [one.encode() for one in value], object)


class Chats:
    """A vocabulary as chats are written in it; its template, which is in no vocabulary's fingerprint, tells caches apart."""

    def __init__(self, vocabulary: seqio.Vocabulary):
        self.vocabulary = vocabulary

    @property
    def plain(self):
        return self.vocabulary.plain

    def __repr__(self) -> str:
        return f"Chats({hashlib.sha256((self.plain.chat_template or '').encode()).hexdigest()[:16]})"


def as_chat(ids_of, chats: Chats, shots: Shots, system: str | None, rendition: Rendition) -> dict:
    """A rendition as the ids of a chat, and as the texts of a pair."""
    pair = renderings.as_pair(rendition, shots)
    ids, mask = ids_of(chats.plain, renderings.as_messages(rendition, system))
    texts = {f"{feature}_pretokenized": pair[feature] for feature in ("inputs", "targets")}
    return {"targets": ids, "targets_mask": mask, **texts}


def as_ids(ids_of, chats: Chats, messages, example: Mapping, number: int) -> dict:
    """An example that is a chat as its ids."""
    ids, mask = ids_of(chats.plain, messages(example))
    return {"targets": ids, "targets_mask": mask}
