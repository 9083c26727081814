"""The offline instruction tasks as groups: seqio mixtures of them, and each group as one task with one token cache.

`instruction_{worlds,code,all}_{bytes,sp}` are trained on, `instruction_{worlds,all}_held_out_{bytes,sp}` measured; those of
one token cache are called `..._together_...` and say in the field `task` where an example is from. Standard sets are in no
mixture, since nothing says which of them are there.
"""

import functools

import seqio

from t5x_like import text_metrics
from t5x_like.prompting.templates import Template
from t5x_like.tasks import corpora
from t5x_like.tasks.instructions import instruction, sets, variants
from t5x_like.tasks.sources.files import GeneratorSource
from t5x_like.tasks.synthetic import code_tasks, worlds
from t5x_like.text_metrics import postprocess

CAP = 2_000  # examples of a task
MODULES = (worlds, code_tasks)  # register the members
AS_IT_IS = (Template("as_it_is", "{{ inputs }}", "{{ targets }}"),)


@functools.cache
def capped(name: str) -> int:
    """How many training examples a task brings into a mixture."""
    return sum(1 for _, _ in zip(range(CAP), sets.ALL[name].examples("train"), strict=False))


def rate(name: str, task: seqio.Task) -> float:
    """Examples, at most CAP, counted where the mixture is used."""
    return float(capped(name))


for group, names in sets.GROUPS.items():
    source = GeneratorSource(functools.partial(sets.together, sets.every, group, CAP), corpora.SPLITS)
    for suffix, vocabulary in variants.VOCABULARIES.items():
        members = [(f"{name}_{suffix}", functools.partial(rate, name)) for name in names]
        seqio.MixtureRegistry.add(f"{group}_{suffix}", members)
        instruction.add(
            f"{group}_together_{suffix}",
            source,
            AS_IT_IS,
            vocabulary,
            metric_fns=(text_metrics.exact_match,),
            postprocess_fn=postprocess.strip,
        )
