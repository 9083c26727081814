"""Registers instruction tasks: fields of any source, rendered by templates as pairs (`add`) or as chats (`add_chat`).

    add("sums", source, templates, vocabularies.BYTES)
    add("sums_5_shot", source, templates, vocabularies.BYTES, shots=Shots((5,)))
    add("sums_steps", source, renderings.add_steps(templates), vocabularies.BYTES)
    add_chat("sums_chat", source, templates, vocabulary, system="You are good at sums.")

Every example becomes `renditions` consecutive documents, each by another template. All random choices are hashes of the
example's fields and the seed, so they do not depend on order and shards.
"""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t5x_like.data.chats import masks
from t5x_like.prompting import renderings
from t5x_like.prompting.renderings import Rendition, Shots
from t5x_like.prompting.templates import Template, choose_templates
from t5x_like.tasks.sources.fields import to_python
from t5x_like.types import Vocabulary

TEXT, TEXTS, IDS = tf.TensorSpec((), tf.string), tf.TensorSpec((None,), tf.string), tf.TensorSpec((None,), tf.int32)
Spec = Mapping[str, tf.TensorSpec]
CHAT = {"targets": IDS, "targets_mask": IDS}
Messages = Sequence[Mapping]  # [{"role", "content"}, ...]
EncodeChat = Callable[[Vocabulary, Messages], list[tuple[list[int], list[int]]]]  # examples (ids, loss mask)


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
    """Registers a task with the features inputs and targets; examples keep the fields of the source.

    Args:
      name: the task's name.
      source: gives examples with the fields that the templates use.
      templates: wordings of the task; each example is rendered by one of them, selected by hash.
      vocabulary: of both features.
      shots: the solved examples shown before the question; none by default.
      renditions: documents per example.
      seed: seed of all random choices.
      metric_fns: seqio metrics.
      postprocess_fn: seqio's postprocess function.

    Raises:
      ValueError: no templates, choices in only some of them, or renditions below 1.
    """
    step = make_step(name, source, templates, shots, renditions, seed)
    pairs = functools.partial(
        step, functools.partial(renderings.to_pair, shots=shots), {"inputs": TEXT, "targets": TEXT}
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
    """Registers a chat task with the features targets and targets_mask.

    The arguments are those of `add`, and `system`, the system message. Solved examples are turns; the loss is on all
    answers that the chat template renders as it does when they are generated, always on the last.
    """
    step = make_step(name, source, templates, shots, renditions, seed)
    write = functools.partial(render_chat, masks.conversation_examples, ChatVocabulary(vocabulary), shots, system)
    spec = {**CHAT, "inputs_pretokenized": TEXT, "targets_pretokenized": TEXT}
    steps = [functools.partial(step, write, spec)]
    register(name, source, steps, make_chat_features(vocabulary), metric_fns, postprocess_fn)


def add_conversations(
    name: str, source: seqio.DataSource, messages: Callable[[Mapping], Messages], vocabulary: seqio.Vocabulary
) -> None:
    """Registers a task of a source whose examples are chats: `messages(example)` returns [{"role", "content"}, ...].

    A chat whose template leaves the thoughts of earlier turns out becomes several examples: `masks.conversation_examples`.
    """
    encode = functools.partial(encode_messages, masks.conversation_examples, ChatVocabulary(vocabulary), messages)
    step = functools.partial(expand_examples, encode)
    register(name, source, [step], make_chat_features(vocabulary), (), None)


def make_chat_features(vocabulary: seqio.Vocabulary) -> dict[str, seqio.Feature]:
    """Returns the features of a chat in a token cache; EOS is already among the ids."""
    mask = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)
    return {"targets": seqio.Feature(vocabulary, add_eos=False), "targets_mask": mask}


def register(
    name: str,
    source: seqio.DataSource,
    steps: Sequence[Callable],
    features: Mapping[str, seqio.Feature],
    metric_fns: Sequence[Callable],
    postprocess_fn: Callable | None,
) -> None:
    """Registers a task whose examples are complete after `steps`."""
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[*steps, seqio.CacheDatasetPlaceholder()],
        output_features=features,
        metric_fns=list(metric_fns),
        postprocess_fn=postprocess_fn,
    )


def make_step(
    name: str, source: seqio.DataSource, templates: Sequence[Template], shots: Shots, renditions: int, seed: int
) -> Callable[..., tf.data.Dataset]:
    """Returns `render_dataset` with its first arguments bound: step(write, spec of what it writes, dataset)."""
    templates = tuple(templates)
    choose = functools.partial(choose_templates, templates, name, renditions, seed)
    choose("")  # raises errors before any example is read
    ranked = [template.name for template in templates if template.choices is not None]
    if ranked and len(ranked) < len(templates):
        raise ValueError(
            f"templates {ranked} of task {name!r} have choices, the others have none; give them to all or to none"
        )

    def read_pool() -> list[Mapping]:
        if not any(shots.counts):
            return []
        if shots.split not in source.splits:
            raise ValueError(
                f"task {name!r} shows examples of Shots.split={shots.split!r}, its source has {list(source.splits)}; name one"
            )
        dataset = source.get_dataset(shots.split, shuffle=False)
        return renderings.select_pool(map(to_python, dataset.as_numpy_iterator()), shots, name)

    render = functools.partial(renderings.render_with_shots, choose, shots, name, seed)
    choices = {"choices": TEXTS} if ranked else {}
    return functools.partial(render_dataset, render, functools.cache(read_pool), renditions, choices)


def render_dataset(
    render: Callable[[Sequence[Mapping], Mapping, int], Rendition],
    read_pool: Callable[[], Sequence[Mapping]],
    renditions: int,
    choices: Spec,
    write: Callable[[Rendition], dict],
    spec: Spec,
    dataset: tf.data.Dataset,
) -> tf.data.Dataset:
    """Renders every example `renditions` times, and adds the fields that `write` makes of a rendition."""
    pool = read_pool()

    def make(example: Mapping, number: int) -> dict:
        rendition = render(pool, example, number)
        return {"choices": rendition.question.get("choices")} | write(rendition)

    return map_examples(make, {**spec, **choices}, renditions, dataset)


def map_examples(
    make: Callable[[Mapping, int], dict], spec: Spec, times: int, dataset: tf.data.Dataset
) -> tf.data.Dataset:
    """Repeats every example `times` times, each with the fields of `spec` that make(example, 0 .. times - 1) returns."""
    fields = checked_fields(dataset)

    def call(number: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
        example = tf.nest.pack_sequence_as(fields, list(values))
        added = make(to_python(example), int(number))
        return [to_array(added[name], one) for name, one in spec.items()]

    def step(example: Mapping[str, tf.Tensor], number: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.numpy_function(call, [number, *tf.nest.flatten(example)], [one.dtype for one in spec.values()])
        shaped = [tf.ensure_shape(value, one.shape) for value, one in zip(values, spec.values(), strict=True)]
        return {**example, **dict(zip(spec, shaped, strict=True))}

    def repeat(example: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
        return tf.data.Dataset.range(times).map(lambda number: (example, number))

    return dataset.flat_map(repeat).map(step)


def expand_examples(
    make: Callable[[Mapping], list[tuple[list[int], list[int]]]], dataset: tf.data.Dataset
) -> tf.data.Dataset:
    """Replaces every example by one for each of the pairs (targets, targets_mask) that `make` returns."""
    fields = checked_fields(dataset)

    def call(*values: np.ndarray) -> list[np.ndarray]:
        pairs = make(to_python(tf.nest.pack_sequence_as(fields, list(values))))
        ids, masks = ([index for part in parts for index in part] for parts in zip(*pairs, strict=True))
        ends = np.cumsum([0, *(len(ids) for ids, _ in pairs)])
        return [np.asarray(values, np.int32) for values in (ids, masks, ends)]

    def expand(example: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
        ids, masks, ends = tf.numpy_function(call, tf.nest.flatten(example), [tf.int32] * 3)

        def cut(number: tf.Tensor) -> dict[str, tf.Tensor]:
            parts = {
                "targets": ids[ends[number] : ends[number + 1]],
                "targets_mask": masks[ends[number] : ends[number + 1]],
            }
            return {**example, **{name: tf.ensure_shape(part, (None,)) for name, part in parts.items()}}

        return tf.data.Dataset.range(tf.size(ends, tf.int64) - 1).map(cut)

    return dataset.flat_map(expand)


def checked_fields(dataset: tf.data.Dataset) -> Mapping[str, tf.TensorSpec]:
    """The fields of a dataset's examples.

    Raises:
      ValueError: a field is ragged or sparse.
    """
    fields = dataset.element_spec
    if unsupported := [
        name for name, one in fields.items() if not all(isinstance(x, tf.TensorSpec) for x in tf.nest.flatten(one))
    ]:
        raise ValueError(
            f"fields {unsupported} are ragged or sparse, which templates cannot read; convert them to text or JSON first"
        )
    return fields


def to_array(value: Any, spec: tf.TensorSpec) -> np.ndarray:
    """Converts a text, texts or ids to an array of the spec's type."""
    if spec.dtype != tf.string:
        return np.asarray(value, spec.dtype.as_numpy_dtype)
    return np.array(value.encode() if isinstance(value, str) else [one.encode() for one in value], object)


class ChatVocabulary:
    """A vocabulary with its chat template; token caches depend on its repr, since fingerprints leave the template out."""

    def __init__(self, vocabulary: seqio.Vocabulary):
        self.vocabulary = vocabulary

    @property
    def plain(self) -> Vocabulary:
        """The vocabulary without seqio."""
        return self.vocabulary.plain

    def __repr__(self) -> str:
        return f"ChatVocabulary({hashlib.sha256((self.plain.chat_template or '').encode()).hexdigest()[:16]})"


def render_chat(
    encode: EncodeChat, vocabulary: ChatVocabulary, shots: Shots, system: str | None, rendition: Rendition
) -> dict:
    """Returns the ids and mask of a rendition as a chat, and its texts as a pair."""
    pair = renderings.to_pair(rendition, shots)
    ids, mask = encode(vocabulary.plain, renderings.to_messages(rendition, system))[-1]
    texts = {f"{feature}_pretokenized": pair[feature] for feature in ("inputs", "targets")}
    return {"targets": ids, "targets_mask": mask, **texts}


def encode_messages(
    encode: EncodeChat, vocabulary: ChatVocabulary, messages: Callable[[Mapping], Messages], example: Mapping
) -> list[tuple[list[int], list[int]]]:
    """Returns the ids and masks of an example that is a chat."""
    return encode(vocabulary.plain, messages(example))
