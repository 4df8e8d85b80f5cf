import pytest

from stvit_video.errors import UserError
from stvit_video.runtime.registry import Registry


def make() -> Registry[type]:
    registry: Registry[type] = Registry("model (MODEL.ARCH)")
    for name in ("swin", "deit", "slowfast"):
        registry.register(name)(int)
    return registry


def test_what_is_registered_is_found_and_left_as_it_was() -> None:
    registry = make()

    @registry.register("mine")
    class Mine:
        pass

    assert registry.get("mine") is Mine
    assert registry.names() == ("deit", "mine", "slowfast", "swin")


def test_an_unknown_name_lists_the_known_ones_the_nearest_first() -> None:
    with pytest.raises(UserError) as caught:
        make().get("SWIN_T")
    assert str(caught.value) == (
        'there is no model (MODEL.ARCH) "SWIN_T"; there are "swin", "slowfast", "deit"'
    )


def test_a_name_is_given_once() -> None:
    registry = make()
    with pytest.raises(ValueError, match="swin"):
        registry.register("swin")(float)
    assert registry.get("swin") is int
