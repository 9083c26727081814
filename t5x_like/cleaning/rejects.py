"""Records that cannot be read, or that make a step fail: counted, listed by file and number, and no reason to stop a run.

What concerns every record is an error of the file or the configuration, and stops the run: a field that no record has, or a step
that always fails.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t5x_like.cleaning.pipeline import Candidate
from t5x_like.cleaning.report import Report
from t5x_like.cleaning.steps import Dropped

REJECTS = "rejects.jsonl"
FIRST = 1000  # if all of so many records at the beginning of a file fail, the run stops


def is_reject(rule: str) -> bool:
    """Whether a rule is of records that cannot be read or made a step fail, not of documents that a step drops."""
    return rule.startswith(("reading.", "error.")) or rule in ("readable.no_text", "readable.invalid_utf8")


def is_failure(rule: str) -> bool:
    """Whether a rule, if it holds for every record, is an error of the configuration."""
    return rule == "reading.missing_field" or rule.startswith("error.")


@dataclass
class Losses:
    """Counts the dropped documents of one input in `report`, and passes those that are rejects to `write`."""

    path: Path
    report: Report
    write: Callable[[dict[str, Any]], Any]
    failures: int = 0

    def add(self, candidate: Candidate, dropped: Dropped) -> None:
        """Adds a document that is dropped.

        Raises:
          ValueError: all of the first records fail.
        """
        self.report.add_dropped(candidate.document, candidate.characters, dropped)
        if not is_reject(dropped.rule):
            return
        self.write(
            {"file": str(self.path), "record": candidate.position + 1, "rule": dropped.rule, "detail": dropped.detail}
        )
        self.failures += is_failure(dropped.rule)
        if self.failures == candidate.position + 1 == FIRST:
            raise ValueError(f"{self.path}: each of the first {FIRST} records fails: {dropped.rule}: {dropped.detail}")


def check_report(report: Report) -> None:
    """Checks that not every record failed.

    Raises:
      ValueError: every record failed.
    """
    if report.read and report.read == sum(count for rule, count in report.dropped.items() if is_failure(rule)):
        rules = ", ".join(f"{count:,} {rule}" for rule, count in report.dropped.most_common())
        (_, example), *_ = report.examples[report.dropped.most_common(1)[0][0]]
        raise ValueError(f"each of the {report.read:,} records fails ({rules}); {example['detail']}")
