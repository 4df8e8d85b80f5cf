"""Seed every test of the models."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)
