import os

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network

import numpy as np
import pytest
import torch

from evalib import dataset


def pytest_configure(config):
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests give the same answer everywhere


@pytest.fixture(scope="session")
def playground(tmp_path_factory):
    """The 24 samples at 32 px, rendered once for all tests."""
    return dataset.build("playground-24", 32, root=tmp_path_factory.mktemp("packs"), progress=False)


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


class FakePack:
    """The part of a Pack that Batches needs, in memory: random pixels, 40 samples."""

    def __init__(self, n=40, size=32):
        numbers = np.random.Generator(np.random.Philox(1))
        self.path, self.size = f"{size}px", size
        self.index = np.zeros(n, [("id", "<i8")])
        self.index["id"] = numbers.permutation(400_000)[:n]
        shapes = {"bg": (3,), "fg_bg": (3,), "mask": (), "depth": (), "bg_depth": ()}
        self.kinds = tuple(shapes)
        self.images = {
            name: numbers.integers(0, 256, (n, size, size, *channels), dtype=np.uint8)
            for name, channels in shapes.items()
        }
        self.images["mask"] = (self.images["mask"] > 200).astype(np.uint8) * 255

    def __len__(self):
        return len(self.index)

    def gather(self, rows):
        raw = {name: torch.from_numpy(x[rows].copy()) for name, x in self.images.items()}
        return raw | {"row": torch.tensor(rows.copy())}

    def batch(self, rows, device="cpu"):
        return dataset.floats(self.gather(rows), device)


@pytest.fixture(scope="session")
def fake_pack():
    """fake_pack(n, size): a pack of random pixels."""
    return FakePack


@pytest.fixture(scope="module")
def pack(fake_pack):
    return fake_pack()
