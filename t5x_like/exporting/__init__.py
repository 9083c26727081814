"""Exported runs: programs that run without this package.

programs      decoding, scoring and encoding as functions of flat arrays
lowering      a program as StableHLO, for any batch size and length
artifact      the folder of an exported run: manifest, parameters, vocabulary
run           the loader that the folder contains; imports nothing of this package
readme        the README that the folder contains
"""
