"""Train the ranking network of the ``tiny`` proposer, and put both networks where the package finds them.

``python -m counterview.tiny.training.proposer_ranker ROOMS BOUNDARY.safetensors [--out FOLDER]``, with ``ROOMS`` from
:mod:`~counterview.tiny.training.proposer_rooms` and the network of
:mod:`~counterview.tiny.training.proposer_boundary`. The target of a node of the merge trees is its best IoU with any
instance, that of furniture and hands weighted a little less. Rooms below ``--first`` are left out, as the boundary
network was trained on them; of the others every fifth is held out, and the correlation of predicted and true IoU is
logged.
"""

from __future__ import annotations

import itertools
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save
from torch.nn import functional
from tqdm import tqdm

from counterview.config import out_of_range
from counterview.errors import ConfigError, InputError
from counterview.media.files import HASHES, atomic_write, sha256_file, write_json
from counterview.media.images import read_image
from counterview.proposals.bundled import BOUNDARY, RANKER, BoundaryModel, bundled_folder, read_boundary
from counterview.proposals.merging import F64, MergeTree
from counterview.proposals.objectness import FEATURES, collect_nodes, predict
from counterview.proposals.regions import AREA
from counterview.proposals.tiny import F32, TinySettings, at_working_size, build_trees, oversegment_along
from counterview.tiny.training.command_line import parse
from counterview.tiny.training.proposer_rooms import OUTSIDE, read_labels, room_images, room_number

__all__ = ["RankerSettings", "RankingExample", "bundle", "fit", "load_examples", "node_ious", "train"]

OTHER_WEIGHT = 0.85
"""Weight of the IoU with furniture, clothes and hands; that with objects and clutter counts 1."""
HIDDEN = (48, 32)
"""Widths of the hidden layers."""
CREDIT_POWER = 8
"""A node with nine tenths of the best node's IoU gets about half its credit."""
SELECTION_WEIGHT = 0.2
"""Weight of the selection loss."""
FEATURE_NOISE = 0.3
"""Standard deviation of the noise on normalised features in training: other images have other features."""
_HELD_OUT = 5
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankerSettings:
    """How the ranking network is trained.

    Raises:
        ConfigError: a value out of range.
    """

    first: int = field(default=500, metadata={"help": "rooms with lower numbers are left to the boundary network"})
    every: int = field(default=1, metadata={"help": "use every n-th image"})
    epochs: int = field(default=24, metadata={"help": "passes over all images"})
    seed: int = field(default=0, metadata={"help": "of weights, order and noise"})
    out: Path | None = field(
        default=None, metadata={"help": "folder of both networks and their hashes; by default the package's own"}
    )

    def __post_init__(self) -> None:
        if problems := out_of_range(self, "every", "epochs", at_least=1):
            raise ConfigError("invalid settings of the ranking network's training: " + "; ".join(problems))


@dataclass(frozen=True, eq=False)
class RankingExample:
    """The nodes of an image.

    Attributes:
        room: number of the room.
        features: ``(m, 26)`` float32.
        iou: ``(m, b)`` float32, of every node with every instance that is not tiny.
        weight: ``(b,)`` float32, of each instance.
    """

    room: int
    features: F32
    iou: F32
    weight: F32

    @property
    def best_iou(self) -> F32:
        """``(m,)`` best weighted IoU of each node."""
        return np.asarray((self.iou * self.weight).max(1))


def node_ious(tree: MergeTree, inside: F64, total: F64) -> F64:
    """IoU ``(n + m, k)`` of every node with every instance.

    Args:
        tree: with n leaves and m merges.
        inside: ``(n, k)`` pixels of each instance within every leaf.
        total: ``(k,)`` pixels of each instance.
    """
    common = np.zeros((len(tree.sums), inside.shape[1]))
    common[: tree.leaves] = inside
    for row, (a, b) in enumerate(tree.children.tolist(), start=tree.leaves):
        common[row] = common[a] + common[b]
    return np.asarray(common / (tree.sums[:, [AREA]] + total - common))


def load_examples(rooms: Path, boundary: BoundaryModel, first: int, every: int) -> list[RankingExample]:
    """The nodes of the images of rooms from ``first`` on.

    Args:
        rooms: folder of the rooms.
        boundary: the network along whose boundaries images are segmented.
        first: number of the first room.
        every: use every n-th image.

    Raises:
        InputError: no rooms, or damaged files.
    """
    settings, examples = TinySettings(), []
    paths = [path for path in room_images(rooms) if room_number(path) >= first][::every]
    for path in tqdm(paths, unit="image"):
        labels = read_labels(path)
        image = at_working_size(read_image(path.with_suffix(".jpg")), settings)
        size_wh = (image.shape[1], image.shape[0])
        instances = np.asarray(cv2.resize(labels.instances, size_wh, interpolation=cv2.INTER_NEAREST)).astype(np.int64)
        regions = oversegment_along(image, boundary(image), settings.regions)
        trees = build_trees(regions)
        nodes = collect_nodes(trees, settings.min_area_px, settings.max_area * instances.size)
        inside = np.zeros((len(regions), OUTSIDE + 1))
        np.add.at(inside, (regions.labels.ravel(), instances.ravel()), 1)
        inside = inside[:, :OUTSIDE]
        weight = np.full(OUTSIDE, OTHER_WEIGHT, dtype=np.float32)
        weight[labels.clutter : labels.person] = 1
        large = inside.sum(0) >= settings.min_area_px
        inside = inside[:, large]
        iou = np.concatenate([node_ious(tree, inside, inside.sum(0)) for tree in trees])[nodes.at]
        examples.append(RankingExample(room_number(path), nodes.features, iou.astype(np.float32), weight[large]))
    return examples


def fit(examples: Sequence[RankingExample], epochs: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Fit the network, one image a step.

    The predicted IoU is trained by cross entropy with the weighted IoU as a soft label; good nodes count more. The
    selection logits are trained by the probability that a softmax over all nodes of an image gives to the best nodes of
    each instance, so that every instance counts alike however many nodes it has.

    Args:
        examples: at least one.
        epochs: passes over them.
        seed: of weights, order and noise.

    Returns:
        weights by name, for :func:`counterview.proposals.objectness.predict`: ``mean`` and ``scale`` ``(26,)``,
        ``w0`` ``(26, 48)``, ``b0`` ``(48,)`` and so on.
    """
    torch.manual_seed(seed)
    every = np.concatenate([example.features for example in examples])
    mean, scale = every.mean(0), np.maximum(every.std(0), 1e-3)
    sizes = (len(mean), *HIDDEN, 2)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * len(examples))
    for _ in tqdm(range(epochs), unit="epoch"):
        for number in torch.randperm(len(examples)).tolist():
            example = examples[number]
            data = torch.from_numpy(np.clip((example.features - mean) / scale, -5, 5).astype(np.float32))
            iou, weight = torch.from_numpy(example.iou), torch.from_numpy(example.weight)
            label = (iou * weight).amax(1)
            logit, selection = net(data + FEATURE_NOISE * torch.randn_like(data)).unbind(1)
            loss = functional.binary_cross_entropy_with_logits(logit, label, 0.3 + label)
            top = iou.amax(0)
            credit = (iou / top.clamp(min=0.05)) ** CREDIT_POWER
            log_probability = torch.log_softmax(selection, 0)[:, None] + credit.clamp(min=1e-12).log()
            counts = top * weight
            loss = loss - SELECTION_WEIGHT * (torch.logsumexp(log_probability, 0) * counts).sum() / counts.sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    weights = {"mean": mean, "scale": scale}
    for number, layer in enumerate(m for m in net if isinstance(m, torch.nn.Linear)):
        weights[f"w{number}"] = layer.weight.detach().numpy().T
        weights[f"b{number}"] = layer.bias.detach().numpy()
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in weights.items()}


def bundle(boundary: Path, weights: dict[str, NDArray[np.float32]], out: Path) -> dict[str, str]:
    """Write both networks and their hashes into a folder, as they come with the package.

    Args:
        boundary: file of the boundary network.
        weights: of the ranking network, from :func:`fit`: ``mean`` ``(26,)`` and so on.
        out: the folder; created if needed.

    Returns:
        SHA-256 of each file by its name, in hex.
    """
    out.mkdir(parents=True, exist_ok=True)
    if boundary.resolve() != (out / BOUNDARY).resolve():
        shutil.copyfile(boundary, out / BOUNDARY)
    with atomic_write(out / RANKER) as handle:
        handle.write(save(weights))
    digests = {name: sha256_file(out / name) for name in (BOUNDARY, RANKER)}
    write_json(out / HASHES, digests)
    return digests


def train(rooms: Path, boundary: Path, settings: RankerSettings | None = None) -> None:
    """Train the network and write it beside the boundary network.

    Args:
        rooms: folder of the rooms.
        boundary: file of the boundary network.
        settings: see :class:`RankerSettings`.

    Raises:
        CheckpointError: the boundary network is missing or damaged.
        InputError: no rooms to train on or none to hold out, or damaged files.
    """
    settings = settings or RankerSettings()
    torch.set_num_threads(1)
    started = time.process_time()
    examples = load_examples(rooms, read_boundary(boundary), settings.first, settings.every)
    held_out = [example for example in examples if example.room % _HELD_OUT == _HELD_OUT - 1]
    training = [example for example in examples if example.room % _HELD_OUT != _HELD_OUT - 1]
    if not training or not held_out:
        raise InputError(
            "too few rooms for training and validation",
            path=rooms,
            found=f"{len(training)} images to train on, {len(held_out)} held out, of rooms from {settings.first} on",
            fix=f"Every {_HELD_OUT}th room is held out.",
        )
    weights = fit(training, settings.epochs, settings.seed)
    for name, part in (("training", training), ("held out", held_out)):
        predicted = np.concatenate([predict(weights, example.features)[0] for example in part])
        true = np.concatenate([example.best_iou for example in part])
        correlation = np.corrcoef(predicted, true)[0, 1]
        _log.info("%s: %d images, %d nodes, correlation %.3f", name, len(part), len(true), correlation)
    digests = bundle(boundary, weights, settings.out or bundled_folder())
    _log.info("%d features, %d parameters, %s", len(FEATURES), sum(v.size for v in weights.values()), digests)
    _log.info("%.0f s of CPU time", time.process_time() - started)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the ranking network, see the module's text."""
    paths = {"rooms": "folder of the rooms", "boundary": "safetensors file of the boundary network"}
    (rooms, boundary), settings = parse(__doc__, paths, RankerSettings, arguments)
    train(rooms, boundary, settings)


if __name__ == "__main__":
    main()
