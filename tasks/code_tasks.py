"""Tasks over the embedded code (see `code_questions` and `code_wordings`), in every variant but written steps."""

from t5x_like.tasks import code_wordings, corpora, instruction_variants
from t5x_like.tasks.sources import GeneratorSource

CLUSTERS = {name: questions.cluster for name, questions in code_wordings.QUESTIONS.items()}

for name, questions in code_wordings.QUESTIONS.items():
    source = GeneratorSource(questions.examples, corpora.SPLITS)
    instruction_variants.add(name, source, questions.templates, questions.metric_fns)
