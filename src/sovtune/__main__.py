"""``python -m sovtune``: the same as the command ``sovtune``."""

from sovtune.cli import main

main()
