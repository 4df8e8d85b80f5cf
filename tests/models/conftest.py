"""Every test of the models draws the same random numbers each time."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)
