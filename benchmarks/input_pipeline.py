"""Slots a second from the token cache against seqio's live tf.data pipeline on the same task.

seqio reads, tokenizes and packs the pairs of python_docstrings_sp; our packed examples are made of the same pairs. Plain LM
rows and span corruption come from python_source_sp, whose documents are too long for seqio's packing, which would throw away
all but their beginnings.
"""

import argparse
import time

import seqio

import report
import tasks.pretraining  # noqa: F401  registers the tasks
from t5x_like.data import rows
from t5x_like.data.stream import Stream
from t5x_like.data.token_cache import TokenCache

LENGTH, PACKED, BATCH = 512, 256, 128


def from_cache(made, batches: int) -> float:
    """Slots a second of a stream of these rows."""
    stream = Stream(made, BATCH)
    stream[0]
    started = time.perf_counter()
    for k in range(1, batches + 1):
        stream[k]
    return batches * BATCH * sum(made.lengths.values()) / (time.perf_counter() - started)


def from_seqio(task: str, batches: int) -> float:
    """Slots a second of seqio's own conversion to packed rows, the first batch not counted."""
    dataset = seqio.get_dataset(
        task,
        {"inputs": PACKED, "targets": PACKED},
        seqio.EncDecFeatureConverter(pack=True),
        dataset_split="train",
        shuffle=False,
        num_epochs=None,
        use_cached=False,
    )
    made = dataset.batch(BATCH).as_numpy_iterator()
    next(made)
    started = time.perf_counter()
    for _ in range(batches):
        next(made)
    return batches * BATCH * 2 * PACKED / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    documents, pairs = TokenCache("python_source_sp", "train"), TokenCache("python_docstrings_sp", "train")
    sides = {
        "causal LM rows": lambda: from_cache(rows.CausalLM(documents, LENGTH), 100),
        "span corruption": lambda: from_cache(rows.SpanCorruption(documents, 512, 114), 50),
        "packed examples": lambda: from_cache(rows.PackedExamples(pairs, PACKED, PACKED), 50),
        "seqio live": lambda: from_seqio("python_docstrings_sp", 8),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, side in sides.items():
            rates[name].append(side())
    report.show("slots a second", {name: report.spread(x) for name, x in rates.items()})
    causal, packed, live = (
        report.spread(rates[name])["median"] for name in ("causal LM rows", "packed examples", "seqio live")
    )
    report.finish(ratio=causal / live, ratio_packed=packed / live, **report.spread(rates["causal LM rows"]))


if __name__ == "__main__":
    main()
