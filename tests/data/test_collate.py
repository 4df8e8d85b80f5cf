import pytest
import torch
from torch.utils.data import default_collate

from stvit_video.data.workers import collate


@pytest.mark.parametrize(
    "shape", [(2, 5, 7, 3), (6, 2, 5, 7, 3)]
)  # A clip, and the views of a video.
@pytest.mark.parametrize("channels_last", [True, False])
def test_batches_equal_default_collate_and_keep_the_memory_layout(shape, channels_last):
    samples = [
        {"video": torch.randint(256, shape, dtype=torch.uint8).movedim(-1, -4), "label": label}
        for label in (3, 5)
    ]
    if not channels_last:
        samples = [{**sample, "video": sample["video"].contiguous()} for sample in samples]
    batch, expected = collate(samples), default_collate(samples)
    torch.testing.assert_close(batch["video"], expected["video"], rtol=0, atol=0)
    assert batch["video"].movedim(-4, -1).is_contiguous()
    assert batch["label"].tolist() == [3, 5]
    assert samples[0]["video"].shape == batch["video"].shape[1:]  # The samples are unchanged.
