"""Several commands of `latent_pmrf.cli` in one process, whose import of torch takes longer than what they train."""

from __future__ import annotations

import json
import sys

from latent_pmrf.cli import main

if __name__ == "__main__":
    for _arguments in json.loads(sys.argv[1]):
        if status := main(_arguments):
            sys.exit(status)
