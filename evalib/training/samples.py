"""What a learner trains on, and what it is scored on."""

from collections.abc import Sequence

import numpy as np
import torch

from evalib import dataset
from evalib.batches import Epochs
from evalib.config import Config
from evalib.stream import Stream

RESIDENT = 0.5  # share of a GPU's free memory that packs may take


def source(
    config: Config,
    data: dict[int, dataset.Pack] | str,
    share: slice,
    workers: int,
    device: torch.device,
) -> tuple[Epochs | Stream, dict[str, str]]:
    """Where samples come from, and what tells it from others."""
    if isinstance(data, str):
        source = Stream(data, config, share, workers=max(1, workers))
        tier = source.source.tier
        what = f"version {dataset.VERSION}, seed {tier.seed}, {tier.backgrounds}"
        what += source.source.identity
        return source, {"stream": f"{data}, rendered while training: {what}"}
    missing = [size for size in config.all_sizes if size not in data]
    if missing:
        raise ValueError(f"config.sizes needs packs of {missing} px; build them first")
    packs = {size: data[size] for size in config.all_sizes}
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if sum(pack.nbytes for pack in packs.values()) < RESIDENT * free:
            packs = {size: pack.on(device) for size, pack in packs.items()}
    rows = packs[config.all_sizes[0]].split()["train"]
    fingerprints = {str(size): pack.fingerprint for size, pack in packs.items()}
    return Epochs(packs, rows, config, share), fingerprints


def refuse_depth(config: Config, *kinds: Sequence[str]) -> None:
    if config.depth_loss and not all("depth" in given for given in kinds):
        raise ValueError(f'no depth to learn {config.depth_loss!r} from: give depth_loss=""')


def validation(pack: dataset.Pack, n: int) -> dict[str, np.ndarray]:
    """Fixed rows to look at while training: two evaluation subsets, or what is trained."""
    rows = pack.split()
    names = [name for name in ("seen", "unseen_both") if len(rows[name])] or ["train"]
    return {name: rows[name][:n] for name in names}
