"""Small SAM 2.1 models of random weights, and a matcher that says what a test wants."""

import torch
from transformers import Sam2VideoModel

from counterview.errors import ProposalError
from counterview.lmeec.architecture import sam2_config
from counterview.types import Candidate, Match, ObjectMask
from tests.lmeec.lmeec_fill import small_config


def sam2_of(config, seed=0, score=5.0, predicted_iou=3.0):
    """A model with every embedding alive, that finds every object visible (``score``, a logit)."""
    config.mask_decoder_config.dynamic_multimask_via_stability = True  # as published
    torch.manual_seed(seed)
    model = Sam2VideoModel(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if not value.any() or "scale" in name:  # SAM 2's embeddings start at zero
                value.uniform_(-0.5, 0.5)
            elif value.ndim > 1 and name.endswith("weight"):  # large enough that attention attends to something
                bound = (3 / value[0].numel()) ** 0.5
                value.uniform_(-bound, bound)
        decoder = model.mask_decoder
        decoder.pred_obj_score_head.proj_out.bias.fill_(score)
        decoder.iou_prediction_head.proj_out.bias.fill_(predicted_iou)
    return model.eval()


def small_sam2(seed=0, side=64, **heads):
    """1.4 million weights. With 64 channels, as many as a memory has, transformers' own loop does not run."""
    return sam2_of(sam2_config(small_config(image_size=side, channels=128, dropout=0.0)), seed, **heads)


class ScriptedMatcher:
    """Answers with ``masks[image size]`` and ``visibility``; an image's encoding is its size.

    Attributes:
        calls: number of query masks by query and target size.
    """

    def __init__(self, masks, visibility=0.9):
        self.masks, self.visibility, self.calls, self.encoded, self.empty = masks, visibility, [], [], False

    def settings(self):
        return {"matcher": {"name": "scripted"}}

    def encode(self, image):
        self.encoded.append(("both", image.shape[:2]))
        return image.shape[:2]

    def encode_query(self, image):
        self.encoded.append(("query", image.shape[:2]))
        return image.shape[:2]

    def match_encoded(self, query, query_masks, target, *, names=None, top_k=5):
        assert all(mask.size_hw == query and not mask.is_empty for mask in query_masks)
        self.calls.append((query, target, tuple(names)))
        if self.empty:
            raise ProposalError("the target image has no proposals")
        mask = self.masks[target] or ObjectMask.empty(target)
        return [Match(name, mask, 0.8, self.visibility, (Candidate(mask, 0.8, 0),)) for name in names]
