"""Groups of instruction tasks over generated examples and code: as seqio mixtures, and as one task with one token cache.

The groups `instruction_{worlds,code,all}_{bytes,sp}` are for training, `instruction_{worlds,all}_held_out_{bytes,sp}` for
evaluation; "worlds" are the generated tasks. As one task, a group is named `..._together_...`, and the field `task` of an
example names its task. Benchmarks are in no group, because their data may be absent.
"""

import functools

import seqio

from t5x_like import text_metrics
from t5x_like.prompting.templates import Template
from t5x_like.tasks import corpora, vocabularies
from t5x_like.tasks.instructions import groups, instruction
from t5x_like.tasks.sources.files import GeneratorSource
from t5x_like.tasks.synthetic import code_tasks, generated_tasks
from t5x_like.text_metrics import postprocess

MAX_EXAMPLES = 2_000  # per task
MODULES = (generated_tasks, code_tasks)  # imported because they register the members of the mixtures
IDENTITY = (Template("identity", "{{ inputs }}", "{{ targets }}"),)


@functools.cache
def count_examples(name: str) -> int:
    """Returns the number of training examples that a task contributes to a mixture, at most MAX_EXAMPLES."""
    return sum(1 for _, _ in zip(range(MAX_EXAMPLES), groups.ALL[name].examples("train"), strict=False))


def mixing_rate(name: str, task: seqio.Task) -> float:
    """Returns the rate of a task in a mixture: its number of examples, counted when the mixture is used."""
    return float(count_examples(name))


for group, names in groups.GROUPS.items():
    source = GeneratorSource(
        functools.partial(groups.interleave, groups.make_all_tasks, group, MAX_EXAMPLES), corpora.SPLITS
    )
    for suffix, vocabulary in vocabularies.BY_NAME.items():
        members = [(f"{name}_{suffix}", functools.partial(mixing_rate, name)) for name in names]
        seqio.MixtureRegistry.add(f"{group}_{suffix}", members)
        instruction.add(
            f"{group}_together_{suffix}",
            source,
            IDENTITY,
            vocabulary,
            metric_fns=(text_metrics.exact_match,),
            postprocess_fn=postprocess.strip,
        )
