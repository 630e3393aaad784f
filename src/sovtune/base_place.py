"""Where a base lies on this disk, found without reading its weights: for plans, which train on nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sovtune.base import RECORD_NAME, cache_home, hub_place, mirror_name, mirrors_of, wheel_place
from sovtune.base_hashes import check_named, remembered
from sovtune.errors import BaseUnavailable
from sovtune.recipe_base import Base
from sovtune.records import BaseRecord, read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class BasePlace:
    """A folder with a base; ``content_sha256`` as it was when the base came here, None when it was never hashed."""

    folder: Path
    content_sha256: str | None


def locate(base: Base, root: Path) -> BasePlace:
    """The first mirror of a base whose files are on this disk.

    Args:
        base: the recipe's section.
        root: folder that relative mirror folders are relative to.

    Raises:
        BaseUnavailable: none is, or the first one is known to be another base than the recipe names.
    """
    for mirror in mirrors_of(base):
        if mirror.folder:
            folder = (root / mirror.folder).resolve()
            if folder.is_dir():
                known = remembered(cache_home(), folder)
                if known is not None:
                    check_named(base, mirror_name(mirror), known)
                return BasePlace(folder=folder, content_sha256=known)
            continue
        folder = wheel_place(mirror) if mirror.wheel else hub_place(base, mirror)
        if (folder / RECORD_NAME).is_file():
            record = read_record(BaseRecord, folder / RECORD_NAME)
            check_named(base, mirror_name(mirror), record.content_sha256)
            return BasePlace(folder=folder, content_sha256=record.content_sha256)
    raise BaseUnavailable(
        f"{base.model} at {base.revision} is not on this machine",
        where="base.mirrors",
        why="a plan needs its config.json and the headers of its weights",
        fix="`sovtune fetch RECIPE` gets it into the cache",
    )
