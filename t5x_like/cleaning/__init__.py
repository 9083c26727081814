"""Cleaning of text before it becomes tokens: every rule is a pure function document -> document or Dropped(rule).

steps        what a step is, and the first one: a document that can be read at all
opening, reading      documents from files (text, JSONL, TSV, CSV, Parquet; .gz, .zst), whatever is in them
html_text, web           the text of pages, from .html and WARC files
pipeline     steps one after another over a stream; report counts and shows what they did
run          a pipeline over files by several processes; shards, identity are its files and its fingerprint
c4, gopher, repetition, fineweb, code, word_list      published heuristics, thresholds as fields
ngram_classifier, classified                    language and quality by hashed n-grams, trained here
dedup, spans, minhash, contamination            copies of documents, lines, sentences and test items
pii                                             personal data and keys

Published pipelines are gin_configs/cleaning/*.gin.
"""
