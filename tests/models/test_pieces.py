"""Working piece by piece gives what working on all at once gives."""

import pytest
import torch
from small import small_deit, small_model

from stvit_video.models.layers import block, pieces
from stvit_video.models.layers.in_place import add_branch, gelu
from stvit_video.models.layers.pieces import by_pieces, rows_of_a_piece

MODELS = {
    "dense": lambda: small_model("swin_t"),
    "semantic": lambda: small_model("stvit_swin_t", "STVIT.TEMPORAL_WINDOW", "2"),
    "recovery": lambda: small_model("stvit_r_swin_t"),
    "centred windows": lambda: small_model(
        "stvit_r_swin_t",
        *("STVIT.BORDER", "cut", "STVIT.SEMANTIC_KEYS", "none"),
        *("STVIT.RECOVERY_WINDOW", "3", "STVIT.KEY_WINDOWS", "(7, 8)"),
    ),
    "DeiT": small_deit,
}


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("numbers", [1, 30_000])
def test_models_give_the_same_piece_by_piece(build, numbers, monkeypatch):
    model = build().eval()
    video = torch.randn(2, 3, 6, 75, 90)  # padded and shifted in all stages
    expected = model(video).detach()
    monkeypatch.setattr(pieces, "_NUMBERS", numbers)
    calls = []
    real = block.gelu
    monkeypatch.setattr(block, "gelu", lambda x: calls.append(x.numel()) or real(x))
    with torch.no_grad():
        found = model(video)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert len(calls) > 12  # more than there are blocks
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        low = model(video)
    torch.testing.assert_close(low.float(), expected, atol=0.05, rtol=0)


def test_pieces_are_for_the_cpu_without_gradients():
    cpu, other = torch.device("cpu"), torch.device("meta")
    assert rows_of_a_piece(10**6, device=cpu, numbers=1000) == 10**6
    with torch.no_grad():
        assert rows_of_a_piece(10**6, device=cpu, numbers=1000) < 10**4
        assert rows_of_a_piece(10**6, device=other, numbers=1000) == 10**6
        assert rows_of_a_piece(10**6, device=cpu, numbers=10**9) == 1
        assert rows_of_a_piece(5, device=cpu, numbers=1) == 5


def test_rows_keep_their_order_and_shape(monkeypatch):
    monkeypatch.setattr(pieces, "_NUMBERS", 3)
    x = torch.randn(2, 5, 4)
    expected = x + 1
    sizes = []
    with torch.no_grad():
        found = by_pieces(lambda rows: sizes.append(len(rows)) or rows + 1, x, numbers=1)
    assert torch.equal(found, expected)
    assert sizes == [3, 3, 3, 1]


@pytest.mark.parametrize("numbers", [1, 1 << 21])
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_no_module_changes_what_it_is_given(build, numbers, monkeypatch):
    """Only results that nothing else has are overwritten; a dense block's input is not."""
    monkeypatch.setattr(pieces, "_NUMBERS", numbers)
    model = build().eval()
    given = []

    def keep(module, arguments):
        given.extend((x, x.clone()) for x in arguments if isinstance(x, torch.Tensor))

    for module in model.modules():
        if isinstance(module, block.TransformerLayer):
            module.register_forward_pre_hook(keep)
    with torch.no_grad():
        model(torch.randn(1, 3, 4, 70, 64))
    assert len(given) > 11
    assert all(torch.equal(x, copy) for x, copy in given)


def test_what_a_backward_pass_needs_is_not_overwritten():
    hidden, branch = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    before = hidden.detach().clone()
    (gelu(hidden * 1) + add_branch(hidden, branch * 1)).sum().backward()
    assert torch.equal(hidden, before)
    with torch.no_grad():
        low = branch.bfloat16()
        assert add_branch(hidden, low).dtype == torch.float32
        fresh = branch.clone()
        assert add_branch(hidden, fresh).data_ptr() == fresh.data_ptr()
        assert torch.equal(fresh, hidden + branch)
