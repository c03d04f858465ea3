"""Packs of many samples in no time: a few rendered ones again and again, for speed and memory."""

from pathlib import Path
from unittest.mock import patch

import numpy as np

from evalib import dataset, rooms

N_RENDERED = 8


def build(tier: str, size: int, limit: int, root: Path | str) -> dataset.Pack:
    """As `dataset.build`, but only N_RENDERED pictures of each kind are different ones."""
    samples = rooms.render(range(N_RENDERED), size)
    empty = rooms.render_backgrounds([0], size)

    def render(ids, size, **_):
        return {kind: x[np.arange(len(ids)) % N_RENDERED] for kind, x in samples.items()}

    def render_backgrounds(bg, size, **_):
        return {kind: x[np.zeros(len(bg), int)] for kind, x in empty.items()}

    with (
        patch.object(rooms, "render", render),
        patch.object(rooms, "render_backgrounds", render_backgrounds),
    ):
        return dataset.build(tier, size, limit=limit, root=root, progress=False)
