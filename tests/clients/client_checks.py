"""What every client must get from the server; runs in the client's own environment.

A client's script defines functions by the names of ``CHECKS`` and ends with ``run_checks``. Its
arguments are the server's address, the model's name, a picture's file and the answer about it.
"""

import base64
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

ADDRESS, MODEL, PICTURE, ANSWER = sys.argv[1:5]
BASE_URL = f"{ADDRESS}/v1"
KEY = "any"
QUESTION = "What is in the picture?"
SECOND_QUESTION = "Is there a cat?"
SECOND_ANSWER = "Yes, there is a cat on the left."
WITHOUT_PICTURE = "I see no picture."
SYSTEM = "You are a helpful assistant."
DATA_URL = f"data:image/png;base64,{base64.b64encode(Path(PICTURE).read_bytes()).decode('ascii')}"

CHECKS = {
    "text": WITHOUT_PICTURE,
    "picture": ANSWER,
    "stream": ANSWER,
    "history": SECOND_ANSWER,
    "grounding": "a cat",
}
"""Each function's name, and what it must return; of ``grounding``, a part of it."""


def run_checks(functions: Mapping[str, object]) -> None:
    """Run the script's functions, and print their outcomes as one line of JSON."""
    outcomes = {}
    for name, expected in CHECKS.items():
        function = functions.get(name)
        if not isinstance(function, Callable):
            outcomes[name] = "–"
            continue
        try:
            found = function()
        except Exception as error:
            outcomes[name] = f"{type(error).__name__}: {error}"
            continue
        is_right = expected in found if name == "grounding" else found == expected
        outcomes[name] = "yes" if is_right else f"it said {found!r}"
    print(json.dumps(outcomes, ensure_ascii=False))
