"""Convolutions of any geometry, drawn by hypothesis."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from nnfast.networks.layers import Conv2D, Layer


def convolutions() -> st.SearchStrategy[tuple[tuple[int, int, int], Conv2D]]:
    """An image's shape, and a Conv2D of any geometry that fits it."""
    sizes = st.integers(1, 4)
    pairs = st.tuples(sizes, sizes)

    def build(
        height: int, width: int, groups: int, channels: int, filters: int, **geometry: Any
    ) -> tuple[tuple[int, int, int], Conv2D]:
        return (height, width, groups * channels), Conv2D(groups * filters, groups=groups, **geometry)

    return st.builds(
        build,
        st.integers(1, 9),
        st.integers(1, 9),
        groups=st.integers(1, 3),
        channels=st.integers(1, 2),
        filters=st.integers(1, 2),
        kernel_size=pairs,
        stride=pairs,
        padding=st.one_of(st.just("same"), st.just("valid"), pairs),
        dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    ).filter(lambda drawn: fits(*drawn))


def fits(shape: tuple[int, ...], layer: Layer) -> bool:
    """Whether the layer takes images of this shape."""
    try:
        layer.output_shape(shape)
    except ValueError:
        return False
    return True
