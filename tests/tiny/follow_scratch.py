"""Small untrained tiny-follows, and a clip of discs that they can learn."""

import numpy as np
import torch

from counterview.tiny.follow import TinyFollow
from counterview.tiny.follow_config import TinyFollowConfig
from counterview.tiny.initial import initialise
from counterview.tiny.training.follow import FollowBatch
from tests.lmeec.lmeec_fill import disc

SIDE = 64


def scratch_config(**settings):
    values = {"backbone": "conv-tiny", "image_size": SIDE, "channels": 64, "attention_layers": 1, "feed_forward": 64}
    return TinyFollowConfig(**{**values, "dropout": 0.0, "appearance": 16, **settings})


def scratch(seed=0, **settings):
    """A model with the weights that training begins with."""
    torch.manual_seed(seed)
    model = TinyFollow(scratch_config(**settings)).eval()
    initialise(model)
    return model


def coloured(count=3, frames=1):
    """Discs of ``count`` colours on grey, elsewhere in the target, as one clip."""
    rng = np.random.default_rng(0)
    colours = [(220, 40, 40), (40, 200, 60), (50, 60, 220)][:count]
    images = rng.integers(100, 130, (2, 1, frames, SIDE, SIDE, 3), dtype=np.uint8)
    masks = np.zeros((2, count, frames, SIDE, SIDE), bool)
    for view, xs in enumerate(([12, 32, 52], [50, 14, 33])):
        for n, colour in enumerate(colours):
            for t in range(frames):
                masks[view, n, t] = disc((SIDE, SIDE), xs[n], 20 + 20 * view + 3 * t, 6)
                images[view, 0, t][masks[view, n, t]] = colour
    return FollowBatch(*(torch.from_numpy(a) for a in (*images, *masks)), torch.zeros(count, dtype=torch.int64))
