"""The report of a cleaning run: counts by rule and examples of kept and dropped documents, as JSON and one HTML page."""

import html
import json
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t5x_like.cleaning.steps import Document, Dropped

KEPT = "kept"

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Cleaning report</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
td, th {{ padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right }}
td:first-child, th:first-child {{ text-align: left }}
.bar {{ background: #4a78b5; height: .7rem; display: inline-block }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f5f2; padding: .6rem; margin: .3rem 0 1rem }}
</style>
<h1>Cleaning report</h1>
<p>{kept:,} of {read:,} documents kept ({share:.1%}); {characters_kept:,} of {characters_read:,} characters.</p>
{empty}{rejects}
<h2>Dropped, by rule</h2>
{dropped}
<h2>Edits, by rule</h2>
{edits}
<h2>Examples</h2>
{examples}
</html>
"""


@dataclass
class Report:
    """Counts of a run; merge() adds another. Examples are sampled by a hash of their id, so they are reproducible."""

    examples_per_rule: int = 5
    excerpt: int = 800
    read: int = 0
    kept: int = 0
    characters_read: int = 0
    characters_kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    edits: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    empty_files: list[str] = field(default_factory=list)
    rejects_file: str = ""  # lists the records that could not be read or made a step fail

    def add_kept(self, document: Document, characters: int, edits: Counter[str]) -> None:
        """Counts a kept document, with its number of characters when read, and its edits by rule."""
        self.read += 1
        self.kept += 1
        self.characters_read += characters
        self.characters_kept += len(document["text"])
        self.edits += edits
        self.add_example(KEPT, document, "")

    def add_dropped(self, document: Any, characters: int, dropped: Dropped) -> None:
        """Counts a dropped document (any object, in its last state) or the Dropped of a source that could not read one."""
        self.read += 1
        self.dropped[dropped.rule] += 1
        self.characters_read += characters
        self.add_example(dropped.rule, document if isinstance(document, dict) else {}, dropped.detail)

    def add_example(self, rule: str, document: Document, detail: str) -> None:
        """Keeps the document as an example if the hash of its id is among the smallest of this rule."""
        name = str(document.get("id", "")).encode("utf-8", "replace").decode()
        rank = zlib.crc32(name.encode())
        examples = self.examples.setdefault(rule, [])
        if len(examples) >= self.examples_per_rule and (not examples or rank >= examples[-1][0]):
            return
        text = shorten(document.get("text"), self.excerpt)
        examples.append((rank, {"id": name, "detail": shorten(detail, self.excerpt), "text": text}))
        examples.sort(key=lambda example: example[0])
        del examples[self.examples_per_rule :]

    def merge(self, other: "Report") -> None:
        """Adds the counts and examples of another report."""
        for name in ("read", "kept", "characters_read", "characters_kept"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.dropped += other.dropped
        self.edits += other.edits
        self.empty_files += other.empty_files
        for rule, theirs in other.examples.items():
            both = sorted([*self.examples.get(rule, []), *theirs], key=lambda example: example[0])
            self.examples[rule] = both[: self.examples_per_rule]

    def to_dict(self) -> dict[str, Any]:
        """All counts and examples as JSON values."""
        names = ("read", "kept", "characters_read", "characters_kept")
        counts = {name: getattr(self, name) for name in names}
        examples = {rule: [example for _, example in examples] for rule, examples in self.examples.items()}
        return {**counts, "dropped": dict(self.dropped), "edits": dict(self.edits)} | {
            "empty_files": self.empty_files,
            "rejects_file": self.rejects_file,
            "examples": examples,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Report":
        """The report of `to_dict`."""
        rules: dict[str, Any] = {name: Counter(content[name]) for name in ("dropped", "edits")}
        examples = {
            rule: [(zlib.crc32(example["id"].encode()), example) for example in examples]
            for rule, examples in content["examples"].items()
        }
        return cls(**content | rules | {"examples": examples})

    def write(self, folder: Path | str) -> None:
        """Writes report.html, a self-contained page, and then report.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.html").write_text(self.page(), encoding="utf-8")
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False)
        (folder / "report.json").write_text(text, encoding="utf-8")

    def summary(self) -> str:
        """The counts as text, one line per rule."""
        share = self.kept / max(self.read, 1)
        lines = [f"{self.kept:,} of {self.read:,} documents kept ({share:.1%})"]
        lines[0] += f", {self.characters_kept:,} of {self.characters_read:,} characters"
        lines += [f"  dropped  {count:>12,}  {rule}" for rule, count in self.dropped.most_common()]
        lines += [f"  edited   {count:>12,}  {rule}" for rule, count in self.edits.most_common()]
        lines += [f"  no document in {name}" for name in self.empty_files]
        if self.rejects_file:
            lines.append(f"  unreadable records, by file and number: {self.rejects_file}")
        return "\n".join(lines)

    def page(self) -> str:
        """The HTML page."""
        rules = [rule for rule, _ in self.dropped.most_common()]
        return PAGE.format(
            **{name: getattr(self, name) for name in ("read", "kept", "characters_read", "characters_kept")},
            share=self.kept / max(self.read, 1),
            empty=f"<p>No document in: {html.escape(', '.join(self.empty_files))}</p>" if self.empty_files else "",
            rejects=f"<p>Unreadable records, by file and number: {self.rejects_file}</p>" if self.rejects_file else "",
            dropped=format_table(self.dropped, self.read),
            edits=format_table(self.edits, sum(self.edits.values())),
            examples="\n".join(format_section(rule, self.examples.get(rule, [])) for rule in (KEPT, *rules)),
        )


def shorten(text: Any, length: int) -> str:
    """The first `length` characters of any value."""
    if isinstance(text, bytes):
        text = text[: 4 * length].decode("utf-8", "replace")
    return str(text)[:length].encode("utf-8", "replace").decode()


def format_table(counts: Counter[str], total: int) -> str:
    """An HTML table, most frequent rule first, with shares of `total`."""
    if not counts:
        return "<p>None.</p>"
    rows = (
        f"<tr><td>{html.escape(rule)}<td>{count:,}<td>{count / total:.2%}"
        f'<td style="text-align:left"><span class="bar" style="width:{200 * count / total:.0f}px"></span>'
        for rule, count in counts.most_common()
    )
    return "<table><tr><th>rule<th>count<th>share<th>\n" + "\n".join(rows) + "</table>"


def format_section(rule: str, examples: list[tuple[int, dict[str, str]]]) -> str:
    """The examples of one rule, collapsed."""
    items = (
        f"<div><b>{html.escape(example['id'])}</b> {html.escape(example['detail'])}"
        f"<pre>{html.escape(example['text'])}</pre></div>"
        for _, example in examples
    )
    return f"<details><summary>{html.escape(rule)}</summary>{''.join(items)}</details>"
