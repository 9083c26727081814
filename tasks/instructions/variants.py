"""One naming rule for instruction tasks: NAME[_few_shot | _steps | _chat]_{bytes,sp}.

`NAME` is answered at once, `_few_shot` after one to three solved examples, `_steps` with the steps written down first, `_chat`
in a chat. Those that show solved examples take them from the first split.
"""

from collections.abc import Callable, Sequence

import seqio

from t5x_like.prompting import renderings
from t5x_like.prompting.renderings import Shots
from t5x_like.prompting.templates import Template
from t5x_like.tasks import vocabularies
from t5x_like.tasks.instructions import instruction
from t5x_like.text_metrics import postprocess

VOCABULARIES = {"bytes": vocabularies.BYTES, "sp": vocabularies.SENTENCEPIECE}
COUNTS = (1, 2, 3)


def add(
    name: str,
    source: seqio.DataSource,
    templates: Sequence[Template],
    metric_fns: Sequence[Callable],
    postprocess_fn: Callable = postprocess.strip,
    steps: bool = False,
) -> None:
    """Registers a task in every variant; `steps` says that examples have a `rationale`."""
    for suffix, vocabulary in VOCABULARIES.items():
        judged = {"metric_fns": metric_fns, "postprocess_fn": postprocess_fn}
        shots = Shots(COUNTS, split=source.splits[0])
        instruction.add(f"{name}_{suffix}", source, templates, vocabulary, **judged)
        instruction.add(f"{name}_few_shot_{suffix}", source, templates, vocabulary, shots, **judged)
        instruction.add_chat(f"{name}_chat_{suffix}", source, templates, vocabulary, **judged)
        if steps:
            judged["postprocess_fn"] = renderings.final_answer
            instruction.add(f"{name}_steps_{suffix}", source, renderings.with_steps(templates), vocabulary, **judged)
