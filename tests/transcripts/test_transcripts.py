"""The Python core does what the transcripts say; `npm test` in sdk/js holds the one in TypeScript to the same."""

import json
from pathlib import Path

import pytest

from .generate import transcripts
from .transcript import replay

FILES = sorted(Path(__file__).parent.glob("*.json"))


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_core_does_what_a_transcript_says(path):
    transcript = json.loads(path.read_text("utf-8"))
    assert json.loads(json.dumps(replay(transcript))) == transcript["steps"]


def test_there_is_a_transcript_of_each_scenario():
    assert {path.stem for path in FILES} == transcripts().keys()
