"""The flags of all commands: every number has limits, and every mistake is one line."""

import argparse

import pytest

from t5x_like.cli import flags, main
from t5x_like.cli.gin.runtime import ConfigError

WRONG = ("nan", "-1", "x", "1e400", "")


class ParserFoundError(Exception):
    """Raised instead of parsing."""


def numeric_actions(parser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in set(action.choices.values()):
                yield from numeric_actions(command)
        elif action.type is not None:
            yield action


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_number_of_every_command_has_limits(command, monkeypatch):
    parsers = []

    def found(self, *_):
        parsers.append(self)
        raise ParserFoundError

    monkeypatch.setattr(flags.Parser, "parse_args", found)
    with pytest.raises(ParserFoundError):
        main.importlib.import_module(main.COMMANDS[command]).main([])
    assert isinstance(parsers[0], flags.Parser)
    for action in numeric_actions(parsers[0]):
        refused = WRONG if action.type is not flags.number else ("nan", "x", "1e400", "")
        for text in refused if action.dest != "arguments" else ():
            with pytest.raises(ConfigError, match=f"--{action.dest}: "):
                parsers[0].error(str(argparse.ArgumentError(action, reason_of(action, text))))


def reason_of(action, text):
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        action.type(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "smallest", "below"),
    [
        (flags.positive, "1", "0"),
        (flags.count, "0", "-1"),
        (flags.seed, str(2**63 - 1), str(2**63)),
        (flags.amount, "0", "-1e-9"),
        (flags.positive_number, "1e-9", "0"),
        (flags.share, "0.999", "1"),
    ],
)
def test_limits(kind, smallest, below):
    assert kind(smallest) == float(smallest) or kind is flags.seed
    with pytest.raises(argparse.ArgumentTypeError):
        kind(below)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["infer", "--run_dir=r", "--batch_size=0"], "--batch_size: 0 is not 1 or more; t5x_like infer --help"),
        (["infer", "--run_dir=r", f"--seed={2**63}"], f"--seed: {2**63} is not 0 to {2**63 - 1}"),
        (
            ["infer", "--run_dir=r", "--max_new_tokens=99999999999"],
            f"--max_new_tokens: 99999999999 is not 1 to {2**31 - 1}",
        ),
        (["eval", "--run_dir=r", "--batches=0"], "--batches: 0"),
        (["eval"], "the following arguments are required: --run_dir"),
        (["eval", "--run_dir=r", "--examples=5"], "--examples=5 applies to --tasks, which is not given"),
        (["eval", "--run_dir=r", "--stop=x"], "applies to --tasks"),
        (["eval", "--run_dir=r", "--tasks=a", "--against_step=5"], "--against_step=5 applies to --against"),
        (["eval", "--run_dir=r", "--tasks=a", "--batches=5"], "--batches=5 does not apply to --tasks"),
        (["cache", "--gin_file=a", "--split=train"], "applies to --task, which is not given"),
        (["cache", "--task=a", "--inspect=3"], "--inspect=3 applies to --gin_file"),
        (["sweep", "--gin_file=a", "--cost_per_hour=3"], "--cost_per_hour=3.0 applies to --dry_run"),
        (["train", "--gin_file=a", "--gin_search_paths=/nowhere"], "/nowhere is not a folder"),
        (["train", "--gin_fiel=x"], "unrecognized arguments: --gin_fiel=x"),
        (["train", "--coordinator=h:1"], "--coordinator=h:1 needs --process_count and --process_index"),
        (["train", "--process_count=2"], "--process_count=2 needs --coordinator and --process_index"),
        (
            ["train", "--coordinator=h:1", "--process_count=2", "--process_index=2"],
            "--process_index=2 is not below --process_count=2",
        ),
    ],
)
def test_mistakes_are_one_line(argv, message, capsys):
    assert main.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("t5x_like: error: ") and message in error and error.count("\n") == 1
