"""``python -m sovtune`` and the command ``sovtune``: the command line, with imports that no collector walks through."""

import gc

# Imports make a hundred thousand objects and no garbage; searching them again and again is a tenth of `sovtune check`.
gc.disable()

from sovtune.cli import main  # noqa: E402

gc.freeze()
gc.enable()

if __name__ == "__main__":
    main()
