"""Registers an instruction task in every variant: `NAME[_few_shot | _steps | _chat]_{bytes,sp}`.

`NAME` asks for the answer only; `_few_shot` shows one to three solved examples before the question; `_steps` asks for a
chain of thought before the answer; `_chat` is a chat. Solved examples come from the source's first split.
"""

import functools
from collections.abc import Callable, Sequence

import seqio

from t5x_like import text_metrics
from t5x_like.prompting import renderings
from t5x_like.prompting.renderings import Shots
from t5x_like.prompting.templates import Template
from t5x_like.tasks import vocabularies
from t5x_like.tasks.instructions import instruction
from t5x_like.text_metrics import postprocess

COUNTS = (1, 2, 3)  # of solved examples


def add(
    name: str,
    source: seqio.DataSource,
    templates: Sequence[Template],
    metric_fns: Sequence[Callable],
    postprocess_fn: Callable = postprocess.strip,
    steps: bool = False,
    stops: Sequence[str] = (),
    ranked: bool = False,
) -> None:
    """Registers a task in every variant.

    Args:
      name: the task's name.
      source: the source of its examples.
      templates: wordings of the task.
      metric_fns: seqio metrics.
      postprocess_fn: seqio's postprocess function.
      steps: whether the examples have the field `rationale`.
      stops: texts that end an answer, except in chats and after a chain of thought; the option `stops` of `postprocess_fn`.
      ranked: whether the templates' choices are also ranked by log-probability, except in chats.
    """
    shots = Shots(COUNTS, split=source.splits[0])
    stopped_fn = functools.partial(postprocess_fn, stops=tuple(stops)) if stops else postprocess_fn
    pair_fns = [*metric_fns, *((text_metrics.rank_classification,) if ranked else ())]
    add_pairs = functools.partial(instruction.add, metric_fns=pair_fns, postprocess_fn=stopped_fn)
    add_chat = functools.partial(instruction.add_chat, metric_fns=metric_fns, postprocess_fn=postprocess_fn)
    add_steps = functools.partial(instruction.add, metric_fns=metric_fns, postprocess_fn=renderings.extract_answer)
    for suffix, vocabulary in vocabularies.BY_NAME.items():
        add_pairs(f"{name}_{suffix}", source, templates, vocabulary)
        add_pairs(f"{name}_few_shot_{suffix}", source, templates, vocabulary, shots)
        add_chat(f"{name}_chat_{suffix}", source, templates, vocabulary)
        if steps:
            add_steps(f"{name}_steps_{suffix}", source, renderings.add_steps(templates), vocabulary)
