import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests give the same answer everywhere
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network

import pytest
import torch

from evalib import dataset


@pytest.fixture(scope="session")
def playground(tmp_path_factory):
    """The 24 samples at 32 px, rendered once for all tests."""
    return dataset.build("playground-24", 32, root=tmp_path_factory.mktemp("packs"), progress=False)


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)
