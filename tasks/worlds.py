"""Tasks over the generated worlds (see `worlds_lists`, `worlds_numbers`, `worlds_text`, `worlds_wiki`), in every variant.

`wiki_articles_{bytes,sp}` are the articles to pretrain on. The clusters say which tasks are of one kind.
"""

import functools

from t5x_like import text_metrics
from tasks import (
    corpora,
    drawn,
    instruction_variants,
    preprocessors,
    pretraining,
    worlds_lists,
    worlds_numbers,
    worlds_text,
    worlds_wiki,
)
from tasks.sources import GeneratorSource

METRICS = (text_metrics.exact_match,)
FAMILIES = (worlds_lists, worlds_numbers, worlds_text)
CLUSTERS = {name: world.cluster for family in FAMILIES for name, world in family.WORLDS.items()} | {
    name: cluster for name, (_, _, cluster) in worlds_wiki.QUESTIONS.items()
}

for family in FAMILIES:
    for name, world in family.WORLDS.items():
        source = GeneratorSource(functools.partial(drawn.of, family.named, name), corpora.SPLITS)
        instruction_variants.add(name, source, world.templates, METRICS, steps=True)

for name, (examples, templates, _) in worlds_wiki.QUESTIONS.items():
    source = GeneratorSource(examples, corpora.SPLITS)
    instruction_variants.add(name, source, templates, METRICS, steps=True)

for suffix, vocabulary in instruction_variants.VOCABULARIES.items():
    pretraining.add(
        f"wiki_articles_{suffix}",
        worlds_wiki.articles,
        ("text",),
        (preprocessors.text_as_targets,),
        ("targets",),
        vocabulary,
    )
