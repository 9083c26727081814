"""Cleaning of text before tokenization: every rule is a pure function document -> document, `Edited` or `Dropped(rule)`.

steps                       the step interface, and the first step: drops documents that cannot be read
compression, reading        documents of files (text, JSONL, TSV, CSV, Parquet; .gz, .zst); unreadable ones become Dropped
html_text, web              the text of pages, from .html and WARC files
pipeline, report            applies steps to a stream of documents; counts and examples
run, work_files, rejects    runs a pipeline over files with several processes; its temporary files and unreadable records
shards, fingerprint         the output files and the fingerprint of a run
beam                        a pipeline on Apache Beam
c4, gopher, repetition, fineweb, code, word_list      published heuristics, thresholds as fields
ngram_classifier, classifier_filters                  language and quality classifiers on hashed n-grams, trained here
dedup, duplicate_spans, minhash, contamination        copies of documents, lines, sentences and test items
pii                                                   personal data and keys

Published pipelines are gin_configs/cleaning/*.gin; the command is t5x_like/cli/data/clean.py.
"""
