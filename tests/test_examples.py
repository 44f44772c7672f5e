"""Each example runs, and is short."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_an_example_runs_and_is_short(script, capsys, monkeypatch):
    assert script.read_text(encoding="utf-8").count("\n") < 60
    runpy.run_path(str(script), run_name="__main__")
    assert capsys.readouterr().out


def test_there_are_five_examples():
    assert len(EXAMPLES) == 5
