"""Answers that took long to find, kept in a sealed file by what decides them: who goes on finds them there."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidetune.atomic import write_text
from sidetune.errors import DataError, DataWarning, RunExists
from sidetune.sealed import digest_of, is_sealed, parsed, sealed_json

KIND = "sidetune answers"


class Memo:
    """A mapping from questions to answers, both JSON; on disk after every answer where it has a path."""

    def __init__(self, path: Path | None = None) -> None:
        """Reads what stands there; a file that is damaged is told of, and nothing in it believed.

        Raises RunExists for a file of others.
        """
        self.path = path
        self.about: Mapping[str, Any] = {}
        """Words that stand beside the answers."""
        self.answers: dict[str, Any] = {}
        if path is None or not path.exists():
            return
        if not is_memo(path):
            raise RunExists(f"{path} is in the way, and sidetune did not write it; move it, or choose another folder")
        try:
            told = parsed(path, "what it kept is found anew")
            if not is_sealed(path, told):
                raise DataError(f"{path} is damaged: it is not as it was written; what it kept is found anew")
        except DataError as e:
            warnings.warn(str(e), DataWarning, stacklevel=2)
            return
        self.about, self.answers = told["about"], told["answers"]

    def find(self, question: Any) -> Any:
        """The answer; None if it was not put."""
        return self.answers.get(key_of(question))

    def put(self, question: Any, answer: Any) -> None:
        self.answers[key_of(question)] = answer
        self.write()

    def write(self) -> None:
        if self.path is not None:
            write_text(self.path, sealed_json({"kind": KIND, "about": self.about, "answers": self.answers}))


def key_of(question: Any) -> str:
    return digest_of(json.loads(json.dumps(question)))


def is_memo(path: Path) -> bool:
    """Whether a file looks like one of ours, whole or not."""
    return path.is_file() and f'"kind": "{KIND}"'.encode() in path.read_bytes()
