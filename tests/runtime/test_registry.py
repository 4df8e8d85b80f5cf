import pytest

from stvit_video.errors import UserError
from stvit_video.runtime.registry import Registry


def make_registry() -> Registry[type]:
    registry: Registry[type] = Registry("model (MODEL.ARCH)")
    for name in ("swin", "deit", "slowfast"):
        registry.register(name)(int)
    return registry


def test_registered_object_is_returned_unchanged() -> None:
    registry = make_registry()

    @registry.register("mine")
    class Mine:
        pass

    assert registry.get("mine") is Mine
    assert registry.names() == ("deit", "mine", "slowfast", "swin")


def test_unknown_name_lists_similar_names_first() -> None:
    with pytest.raises(UserError) as caught:
        make_registry().get("SWIN_T")
    assert str(caught.value) == (
        'unknown model (MODEL.ARCH) "SWIN_T": choose one of "swin", "slowfast", "deit"'
    )


def test_duplicate_name_is_rejected() -> None:
    registry = make_registry()
    with pytest.raises(ValueError, match="swin"):
        registry.register("swin")(float)
    assert registry.get("swin") is int
