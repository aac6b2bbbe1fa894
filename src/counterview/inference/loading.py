"""Load a predictor by name: for pairs of images, or for takes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from counterview.errors import ConfigError
from counterview.inference.networks import load_head, load_lmeec
from counterview.inference.refining import check_refine, refiner_for
from counterview.inference.runtime import is_onnx, load_networks
from counterview.inference.zoo import TRACKERS, Source, resolve
from counterview.nn.bundled import default_model

if TYPE_CHECKING:
    from counterview.deploy.models import OnnxNetworks
    from counterview.evaluation.layout import Layout
    from counterview.inference.geometric_matcher import GeometricMatcher
    from counterview.inference.mask_tracker import MaskTracker
    from counterview.inference.predictor import Predictor
    from counterview.inference.proposal_matcher import ProposalMatcher
    from counterview.inference.takes import TakePredictor
    from counterview.inference.track_takes import Protocol
    from counterview.proposals.base import Proposer


logger = logging.getLogger(__name__)


@overload
def load(
    model: Literal["knn", "base", "tiny", "tiny-match"] | None = None,
    *,
    proposals: str | None = None,
    features: str | None = None,
    device: str = "auto",
    cache: str | os.PathLike[str] | None = None,
    trust: bool = False,
    runtime: str = "torch",
    refine: str = "none",
) -> ProposalMatcher: ...


@overload
def load(
    model: Literal["tiny-follow"], *, device: str = "auto", dtype: str = "float32", trust: bool = False
) -> MaskTracker: ...


@overload
def load(
    model: str | os.PathLike[str] | None = None,
    *,
    proposals: str | None = None,
    features: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    cache: str | os.PathLike[str] | None = None,
    trust: bool = False,
    runtime: str = "torch",
    refine: str = "none",
) -> Predictor[Any]: ...


def load(
    model: str | os.PathLike[str] | None = None,
    *,
    proposals: str | None = None,
    features: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    cache: str | os.PathLike[str] | None = None,
    trust: bool = False,
    runtime: str = "torch",
    refine: str = "none",
) -> Predictor[Any]:
    """Load a predictor by name.

    Args:
        model: ``knn``, the nearest neighbour among the target's proposals (O-MaMa, k-NN row); ``base``, the same on
            DINOv2-B and SAM 2.1; ``geometric`` or ``geometric:MATCHER``, matched points
            (:func:`counterview.baselines.geometric.config.parse_name`); ``tiny`` or another bundled model; the folder
            of a trained model, a recipe, or the id ``owner/name`` of a repository on the Hub: see
            :mod:`counterview.inference.zoo`. By default
            :data:`counterview.nn.bundled.DEFAULT_MODEL`, or ``knn`` if ``features`` are given.
        proposals: ``graph``, ``tiny``, ``sam2[:ID or folder]``, ``fastsam`` or ``folder:PATH``. By default ``graph``
            for ``knn`` and ``geometric``, and for a checkpoint the proposer that it was trained with. Points and boxes
            choose among the same; where that is ``graph`` by default, and with an LM-EEC, among those of ``tiny``.
        features: for ``knn``: ``classical`` (the default), ``dinov2-base-reg``, ``dinov2-base``, ``clip``, ``dinov3``,
            a Hub id, or a folder. A checkpoint works with the features that it was trained on and no others.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``float32``; for an LM-EEC also ``bfloat16`` or ``float16``, in which it is faster where the device
            computes in them.
        cache: a folder in which proposals are stored for the next run.
        trust: open what the model's folder names outside itself, and read weights that are pickles (FastSAM's): for
            models of your own, or of somebody whom you trust.
        runtime: what computes the networks of a tiny-match or of O-MaMa's head: ``torch``; ``onnx``, ONNX Runtime, for
            which they are exported once into this user's cache; or ``onnx:FOLDER``, the folder that ``counterview
            export onnx`` wrote. All else, frozen backbones too, stays with torch, then on the CPU.
        refine: ``auto``: the mask of a match, or of an object that is followed, is drawn again in a window around the
            proposal, by a bundled network for a tiny-match, by SAM 2's decoder where it proposes. ``none``: masks are
            proposals as they are.

    Returns:
        A :class:`~counterview.inference.proposal_matcher.ProposalMatcher`; for an LM-EEC a
        :class:`~counterview.inference.mask_tracker.MaskTracker`; for ``geometric`` a
        :class:`~counterview.inference.geometric_matcher.GeometricMatcher`.

    Raises:
        ConfigError: an unknown name (the error names the nearest one), or an option that the model does not have.
        CheckpointError: a folder without a checkpoint, a damaged checkpoint, or a recipe that was not trained.
        WeightsError: weights that cannot be fetched, or a bundled model that is not part of this installation.
        MissingExtraError: an extra that is not installed.
        TrustError: what would be opened without ``trust``.

    >>> import counterview
    >>> model = counterview.load("knn")
    >>> model.settings()["proposals"]["name"], model.settings()["features"]["name"]
    ('graph', 'classical')
    """
    start = time.perf_counter()
    source = resolve(default_model(features) if model is None else model)
    predictor = load_source(
        source,
        proposals=proposals,
        features=features,
        device=device,
        dtype=dtype,
        cache=cache,
        trust=trust,
        runtime=runtime,
        refine=refine,
    )
    logger.info("model %s loaded in %.2f s", source.name, time.perf_counter() - start)
    return predictor


def load_source(
    source: Source,
    *,
    proposals: str | None = None,
    features: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    cache: str | os.PathLike[str] | None = None,
    trust: bool = False,
    runtime: str = "torch",
    refine: str = "none",
) -> Predictor[Any]:
    """:func:`load` for a source of :func:`counterview.inference.zoo.resolve`. Arguments and errors as there."""
    from counterview.devices import resolve_device

    if is_onnx(runtime) and source.method not in ("omama", "tiny-match"):
        raise ConfigError(
            f"the model {source.name} runs with torch alone", found=f"runtime {runtime}",
            expected="a tiny-match or an O-MaMa", fix="Leave out --runtime.",
        )  # fmt: skip
    check_refine(refine)
    if not is_onnx(runtime):
        resolve_device(device)  # a part that computes nothing there would not say that the device is unknown
    if source.method in TRACKERS:
        refuse_options(source.method, proposals=proposals, features=features, cache=cache)
        return load_tracker(source, device, dtype)
    _refuse_half(source.name, dtype)
    if source.method == "geometric":
        refuse_options(source.method, features=features)
        return load_geometric(source, proposals=proposals, device=device, cache=cache, trust=trust)
    predictor = load_matcher(
        source, proposals=proposals, features=features, device=device, cache=cache, trust=trust, runtime=runtime
    )
    predictor.refiner = refiner_for(predictor) if refine == "auto" else None
    return predictor


def load_take_predictor(
    model: str | os.PathLike[str] | None = None,
    *,
    proposals: str | None = None,
    features: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    cache: str | os.PathLike[str] | None = None,
    layout: str | Layout = "official",
    overrides: Sequence[str] = (),
    trust: bool = False,
    refine: str = "none",
) -> TakePredictor:
    """Load a predictor for takes by name. Arguments and errors as :func:`load`.

    Args:
        model: as for :func:`load`.
        proposals: likewise.
        features: likewise.
        device: likewise.
        dtype: likewise.
        cache: likewise.
        layout: ``official``: every frame with a query mask, masks at longer side 480. ``lmeec``: as LM-EEC's own
            inference, frames in which the target has a mask, 480 x 480 squares.
        overrides: ``model.KEY=VALUE`` texts, laid over a recipe that needs no training, or over the settings of a
            trained LM-EEC: see :func:`counterview.inference.zoo.resolve`.
        trust: as for :func:`load`.
        refine: likewise.

    Returns:
        A :class:`~counterview.inference.takes.ClipPredictor` for an LM-EEC, a
        :class:`~counterview.inference.track_takes.TrackingPredictor` for ``tiny-track`` and ``tiny-track:click``,
        otherwise a :class:`~counterview.inference.takes.FramePredictor`.

    >>> load_take_predictor("knn").settings()["matcher"]["name"]
    'knn'
    """
    from counterview.evaluation.layout import get_layout
    from counterview.inference.takes import ClipPredictor, FramePredictor

    chosen = get_layout(layout)
    if (protocol := tracking_protocol(model)) is not None:
        _refuse_half("tiny-track", dtype)
        return _tracking(protocol, chosen, (proposals, features), device, cache, overrides, refine)
    source = resolve(default_model(features) if model is None else model, overrides)
    if source.method in TRACKERS:
        refuse_options(source.method, proposals=proposals, features=features, cache=cache)
        tracker = load_tracker(source, device, dtype)
        return ClipPredictor(tracker.model, tracker.autocast, chosen)
    predictor = load_source(
        source,
        proposals=proposals,
        features=features,
        device=device,
        dtype=dtype,
        cache=cache,
        trust=trust,
        refine=refine,
    )
    return FramePredictor(predictor, chosen)


def tracking_protocol(model: str | os.PathLike[str] | None) -> Protocol | None:
    """What is known of the query camera, for a name of ``tiny-track``; ``None`` for other models.

    >>> tracking_protocol("tiny-track"), tracking_protocol("tiny-track:click"), tracking_protocol("tiny-match")
    ('given', 'click', None)
    """
    protocols: dict[str, Protocol] = {"tiny-track": "given", "tiny-track:click": "click"}
    return protocols.get(model) if isinstance(model, str) else None


def _tracking(
    protocol: Protocol,
    layout: Layout,
    parts: tuple[str | None, str | None],
    device: str,
    cache: str | os.PathLike[str] | None,
    overrides: Sequence[str],
    refine: str,
) -> TakePredictor:
    """``tiny-track``: tiny-match with memories."""
    from counterview.inference.track_takes import TrackingPredictor

    if overrides or any(part is not None for part in parts):
        raise ConfigError(
            "tiny-track has its own proposals and features", found=" ".join(overrides) or "--proposals or --features",
            fix="Leave them out.",
        )  # fmt: skip
    check_refine(refine)
    predictor = load_matcher(resolve("tiny-match"), device=device, cache=cache)
    predictor.refiner = refiner_for(predictor) if refine == "auto" else None
    return TrackingPredictor(predictor, layout, protocol=protocol)


def load_tracker(source: Source, device: str = "auto", dtype: str = "float32") -> MaskTracker:
    """Load an LM-EEC from its source. Arguments and errors as :func:`load`."""
    from counterview.devices import resolve_autocast, resolve_device
    from counterview.inference.mask_tracker import MaskTracker

    on = resolve_device(device)
    autocast = resolve_autocast(dtype, on)  # before the weights are read
    return MaskTracker(load_lmeec(source).to(on), source=source.name, autocast=autocast)


def _refuse_half(name: str, dtype: str) -> None:
    """Refuse half precision for a model that is no LM-EEC, and an unknown dtype.

    Raises:
        ConfigError: such a dtype.
    """
    from counterview.devices import resolve_dtype

    resolve_dtype(dtype)
    if dtype != "float32":
        raise ConfigError(
            f"{name} computes in float32", found=f"--dtype {dtype}", expected="an LM-EEC for half precision",
            fix="Leave out --dtype.",
        )  # fmt: skip


def load_matcher(
    source: Source,
    *,
    proposals: str | None = None,
    features: str | None = None,
    device: str = "auto",
    cache: str | os.PathLike[str] | None = None,
    trust: bool = False,
    runtime: str = "torch",
) -> ProposalMatcher:
    """Load a predictor that chooses among proposals from its source. Arguments and errors as :func:`load`."""
    from counterview.devices import resolve_device
    from counterview.features import load_backbone
    from counterview.inference.matchers import HeadMatcher, KnnMatcher
    from counterview.inference.proposal_matcher import ProposalMatcher
    from counterview.inference.trust import ModelParts, check_parts
    from counterview.tiny.model import TinyMatch

    if source.method == "knn":
        backbone = load_backbone(features or source.options.get("features", "classical"), device=device)
        name = proposals or source.options.get("proposals", "graph")
        # As candidates, `graph` masks score better; for a point, `tiny` joins fewer neighbouring objects.
        prompts = _proposer("tiny", {}, device, cache, trust) if proposals is None and name == "graph" else None
        return ProposalMatcher(_proposer(name, {}, device, cache, trust), backbone, KnnMatcher(), prompts)
    head, networks = load_head(source), None
    if is_onnx(runtime):  # what else there is computes on the CPU
        onnx_device, device = device, "cpu"
    matcher = HeadMatcher(head, source=source.name, device=str(resolve_device(device)))
    config = matcher.omama
    if features is not None and features != config.backbone:
        raise ConfigError(
            f"the model {source.name} was trained on other features", found=features, expected=config.backbone,
            fix="Leave out --features.",
        )  # fmt: skip
    for settings, reserved in (
        (config.backbone_settings, {"name", "device"}),
        (config.proposer_settings, {"name", "trust"}),
    ):
        if taken := sorted(reserved & settings.keys()):
            raise ConfigError(f"the model {source.name} has settings that no part has", found=", ".join(taken))
    as_trained = proposals is None or proposals == config.proposer
    parts = ModelParts(
        config.backbone,
        config.backbone_settings,
        proposals or config.proposer,
        config.proposer_settings if as_trained else {},
    )
    if source.folder is not None:  # a recipe is the user's own word
        parts = check_parts(parts, source.folder, given=(proposals, features), trust=trust)
    if is_onnx(runtime):
        networks = load_networks(runtime, head, parts.proposer, onnx_device, source.name)
        head = networks.model()
        matcher = HeadMatcher(head, source=source.name)
    try:
        proposer = _proposer(parts.proposer, parts.proposer_settings, device, cache, trust, networks)
        learned = head.own_backbone(resolve_device(device)) if isinstance(head, TinyMatch) else None
        backbone = learned or load_backbone(parts.features, device=device, **parts.features_settings)
    except ConfigError as error:
        if source.folder is None or not as_trained:
            raise
        raise ConfigError(
            f"the model's features or proposals cannot be used: {error.problem}", path=source.folder / "config.json",
            found=error.found, expected=error.expected, fix=error.fix,
        ) from None  # fmt: skip
    return ProposalMatcher(proposer, backbone, matcher, networks=networks)


def load_geometric(
    source: Source,
    *,
    proposals: str | None = None,
    device: str = "auto",
    cache: str | os.PathLike[str] | None = None,
    trust: bool = False,
) -> GeometricMatcher:
    """Load the predictor of matched points from its source. Arguments and errors as :func:`load`."""
    from counterview.baselines.geometric import load_image_matcher
    from counterview.baselines.geometric.config import GeometricConfig
    from counterview.config import load_config
    from counterview.inference.geometric_matcher import GeometricMatcher

    options = source.options
    settings = {} if options["matcher"] == "sift" else {"device": device}
    if options["weights"]:
        settings["weights"] = options["weights"]
    matcher = load_image_matcher(options["matcher"], **settings)
    config = load_config(GeometricConfig, {"select": options["select"]})
    prompts = _proposer("tiny", {}, device, cache, trust) if proposals is None else None
    return GeometricMatcher(matcher, _proposer(proposals or "graph", {}, device, cache, trust), config, prompts)


def refuse_options(method: str, **options: object) -> None:
    """Refuse options that a method does not have.

    Args:
        method: of the model.
        options: name to value of each option; ``None`` if it was not given.

    Raises:
        ConfigError: the method is an LM-EEC or ``geometric``, and an option was given.
    """
    surplus = [f"--{name}" for name, value in options.items() if value is not None]
    if method == "geometric" and surplus:
        raise ConfigError(
            f"geometric takes no {' and no '.join(surplus)}",
            fix="Leave it out: the matcher has its own, as in geometric:lightglue.",
        )
    if method in TRACKERS and surplus:
        raise ConfigError(
            f"LM-EEC takes no {' and no '.join(surplus)}",
            fix="Leave it out: LM-EEC draws its masks and has no proposals or features to choose.",
        )


def _proposer(
    name: str,
    settings: Mapping[str, Any],
    device: str,
    cache: str | os.PathLike[str] | None,
    trust: bool,
    networks: OnnxNetworks | None = None,
) -> Proposer:
    from counterview.proposals import load_proposer
    from counterview.proposals.cache import CachedProposer

    placement = {"device": device} if name.partition(":")[0] in ("sam2", "fastsam") else {}
    if networks is not None and name == "tiny":
        from counterview.config import load_config
        from counterview.proposals.tiny import TinySettings

        proposer: Proposer = networks.proposer(load_config(TinySettings, settings))
    else:
        proposer = load_proposer(name, trust=trust, **{**settings, **placement})
    return proposer if cache is None else CachedProposer(proposer, cache)
