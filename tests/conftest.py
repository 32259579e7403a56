import pytest
import torch


@pytest.fixture
def two_threads():
    """Kernels whose work two threads share: processes of tests that run side by side have one each."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
