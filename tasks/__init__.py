"""seqio tasks: what an example is. `corpora` are sources, `vocabularies` the ids, `preprocessors` the steps between,
`pretraining` the tasks. Importing a module registers its tasks; all of them import TensorFlow."""
