"""Whether a model, an objective and rows fit together, by what each declares; compared before anything is compiled.

    model.sides, model.outputs            the sides it reads (the last is the one it predicts), and what it computes
    objective.side, needs, labels, group  the side of its targets, the outputs that it needs, its features besides the common
                                          ones, and the number of rows that it compares
    rows.lengths, extra_features, group   the sides and the features of the batch, and the number of rows that belong together
    rows.read_features, cache.features    the features of the task that rows read, and those that it has

Nothing is checked of a part that declares nothing.
"""

from collections.abc import Iterable
from typing import Any

from t5x_like.data import mixing
from t5x_like.types import Model, Objective, Rows

OUTPUTS = {
    "tokens": "logits over the vocabulary",
    "classes": "logits of a row's class (EncoderOnly.pooler and EncoderOnly.classifier)",
    "replaced": "logits of replaced tokens (electra.Electra of a generator and a discriminator)",
}
# What to use with a model, by the sides that it reads.
INSTEAD = {
    ("decoder",): "objectives/causal_lm.gin or prefix_lm.gin for text, instruction.gin for pairs and chats",
    ("encoder", "decoder"): "objectives/span_corruption.gin, ul2.gin or bart.gin for text, seq2seq.gin for pairs",
    ("encoder",): "objectives/masked_lm.gin for text (permutation_lm.gin for XLNet, next_sentence.gin for BERT)",
}
DETECTOR = "sizes/electra_discriminator/*.gin with objectives/replaced_tokens.gin"
KINDS = {("decoder",): "decoder-only", ("encoder", "decoder"): "encoder-decoder", ("encoder",): "encoder-only"}


def check(model: Model, objective: Objective, rows: Rows) -> None:
    """Checks that an objective can train the model on the rows.

    Raises:
      ValueError: it cannot, or it would ignore a part of the data; the message names what to use instead.
    """
    sides = getattr(model, "sides", None)
    if sides is None:
        return
    instead = f"use {INSTEAD[sides] if 'tokens' in model.outputs else DETECTOR}"
    check_objective(model, objective, instead)
    for part in mixing.components(rows).values():
        check_rows(model, objective, part, instead)


def check_objective(model: Model, objective: Objective, instead: str) -> None:
    """Checks that the model computes what the objective needs.

    Raises:
      ValueError: it does not.
    """
    name, kind = type(objective).__name__, f"the {KINDS[model.sides]} model ({type(model).__name__})"
    side = getattr(objective, "side", model.sides[-1])
    if side != model.sides[-1]:
        raise ValueError(f"objective={name} predicts the tokens of the {side}, but {kind} has other targets; {instead}")
    if missing := [output for output in getattr(objective, "needs", ()) if output not in model.outputs]:
        wanted = " and ".join(OUTPUTS[output] for output in missing)
        raise ValueError(f"objective={name} needs {wanted}, which {kind} does not compute; {instead}")


def check_rows(model: Model, objective: Objective, rows: Rows, instead: str) -> None:
    """Checks that the rows have what the model and the objective read, and nothing that would be ignored.

    Raises:
      ValueError: they do not; or the rows ignore a feature of their task.
    """
    name, kind = type(rows).__name__, f"the {KINDS[model.sides]} model ({type(model).__name__})"
    if set(rows.lengths) != set(model.sides):
        raise ValueError(
            f"rows={name}{of_task(rows)} have features of the {both(rows.lengths)}, but {kind} reads the "
            f"{both(model.sides)}; {instead}"
        )
    group = getattr(objective, "group", None)
    if group is not None and group != getattr(rows, "group", 1):
        raise ValueError(
            f"objective={type(objective).__name__} compares groups of {group} rows, but rows={name}{of_task(rows)} have "
            f"groups of {getattr(rows, 'group', 1)}; {instead}"
        )
    labels = getattr(objective, "labels", None)
    if labels is not None:
        if missing := [label for label in labels if label not in rows.extra_features]:
            raise ValueError(
                f"objective={type(objective).__name__} needs {both(missing)}, which {name} lack; {instead}"
            )
        read = {*model.extra_features, *labels}
        extra = rows.extra_features.items()
        if unread := [feature for feature, x in extra if x.needed and feature not in read]:
            raise ValueError(
                f"rows={name} have {both(unread)}, which {kind} and {type(objective).__name__} ignore; {instead}"
            )
    for cache in getattr(rows, "caches", ()):
        read_features = getattr(rows, "read_features", cache.features)
        if unread := [feature for feature in cache.features if feature not in read_features]:
            raise ValueError(
                f"rows={name} ignore {both(unread)} of task {cache.task!r}, which has {both(cache.features)}; {instead}"
            )


def of_task(rows: Any) -> str:
    """The tasks of rows and their features, for messages."""
    return "".join(f" of task {cache.task!r} with {both(cache.features)}" for cache in getattr(rows, "caches", ()))


def both(names: Iterable[str]) -> str:
    """Names joined by "and"."""
    return " and ".join(names)
