"""How far a network looks is measured where it is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from geoseg.reach import MARGINS, NEXT_TO_NOTHING, measure_reach


class Shifted(nn.Module):
    """The class of a pixel is that of the sign of the pixel so many columns to its left; what is not seen counts as 0."""

    def __init__(self, columns: int):
        super().__init__()
        self.columns = columns

    def forward(self, image):
        seen = torch.zeros_like(image)
        seen[..., self.columns :] = image[..., : image.shape[-1] - self.columns]
        return torch.cat([torch.zeros_like(seen), seen], dim=1)


@pytest.mark.parametrize("columns", [0, 32, 50, 100, 192])
def test_margins_suffice_from_the_distance_on_at_which_a_network_looks(columns):
    images = torch.randn(3, 1, 90, 70, generator=torch.Generator().manual_seed(0))
    reach = measure_reach(Shifted(columns), images)
    assert tuple(reach) == MARGINS[: len(reach)]
    enough = [share <= NEXT_TO_NOTHING for share in reach.values()]
    assert enough == [False] * (len(reach) - 1) + [True]
    assert next(reversed(reach)) == next(margin for margin in MARGINS if margin >= columns)
    for margin, share in reach.items():
        # A column of the border that sees nothing is wrong where there would have been a positive value. At the left
        # and right border 8 x 128 pixels are compared, above and below 8 x 112 more.
        blind = max(columns - margin, 0)
        pixels = sum(128 if column < 8 or column >= 120 else 16 for column in range(min(blind, 128)))
        assert share == pytest.approx(0.5 * pixels / (128**2 - 112**2), abs=0.06)
        assert (share == 0) == (blind == 0)


def test_a_network_that_looks_at_all_of_a_window_looks_further_than_any_margin():
    class Balance(nn.Module):
        def forward(self, image):
            return torch.cat([image, image.mean(dim=(-2, -1), keepdim=True).expand_as(image)], dim=1)

    images = torch.randn(4, 1, 300, 300, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    assert min(measure_reach(Balance(), images).values()) > 0


def test_without_an_image_nothing_is_known():
    assert measure_reach(nn.Identity(), []) == {}
