"""Cleaning of text before it becomes tokens: every rule is a pure function document -> document or Dropped(rule).

steps                       what a step is, and the first one: a document that can be read at all
opening, reading            documents from files (text, JSONL, TSV, CSV, Parquet; .gz, .zst), whatever is in them
html_text, web              the text of pages, from .html and WARC files
pipeline, report            steps one after another over a stream; counts, and shows what they did
run, shards, identity       a pipeline over files by several processes; what it writes, and its fingerprint
beam                        a pipeline on Apache Beam
c4, gopher, repetition, fineweb, code, word_list      published heuristics, thresholds as fields
ngram_classifier, classified                          language and quality by hashed n-grams, trained here
dedup, spans, minhash, contamination                  copies of documents, lines, sentences and test items
pii                                                   personal data and keys

Published pipelines are gin_configs/cleaning/*.gin; the command is t5x_like/cli/clean.py.
"""
