"""seqio tasks: what an example is. Importing a module registers its tasks, and loads TensorFlow.

pretraining, corpora    tasks over the Python standard library: plain text, and pairs of signature and docstring
mixtures                groups of instruction tasks, as seqio mixtures and as one task each
vocabularies            the ids of tasks: bytes, SentencePiece, and Hugging Face tokenizers
text_tasks              registers tasks over text fields
preprocessors           seqio preprocessors: renaming of fields, and objectives for seqio's own pipeline
sources/                data sources: files, Python generators, Hugging Face datasets, TFDS
custom/                 tasks over the user's own data, configured in gin
synthetic/              tasks over generated examples: lists, numbers, words, a wiki, code, reasoning
benchmarks/             GLUE, SuperGLUE, SQuAD, MMLU, WMT and others
instructions/           registers instruction tasks: templates, few-shot prompts, chats, held-out groups
caching/                builds token caches of tasks
exporting/              exported runs as SavedModels
"""
