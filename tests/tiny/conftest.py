"""Settings of tests that run real tiny models: one thread, deterministic."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
