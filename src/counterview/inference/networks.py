"""The networks of a resolved source, without what is around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from counterview.errors import ConfigError
from counterview.inference.zoo import TRACKERS, Source, resolve

if TYPE_CHECKING:
    import os

    from counterview.lmeec.model import LMEEC
    from counterview.omama.model import OMaMa
    from counterview.tiny.model import TinyMatch


def load_lmeec(source: Source) -> LMEEC:
    """The LM-EEC of a folder, with the settings of a recipe over its own, on the CPU."""
    from counterview.config import load_config, to_dict
    from counterview.lmeec.model import LMEEC
    from counterview.tiny.follow import TinyFollow

    model = (TinyFollow if source.method == "tiny-follow" else LMEEC).from_pretrained(_folder(source))
    if not source.overrides:
        return model
    before = to_dict(model.config)
    after = load_config(type(model.config), before, source.overrides)
    return model.with_settings(**{k: getattr(after, k) for k, v in to_dict(after).items() if v != before[k]})


def trainable_parameters(model: str) -> int:
    """Number of trainable parameters of a model, by its name: 0 for nearest neighbour. Errors as in loading it."""
    source = resolve(model)
    if source.folder is None:
        return 0
    network = load_lmeec(source) if source.method in TRACKERS else load_head(source)
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def load_head(source: Source) -> OMaMa | TinyMatch:
    """The model of a folder, or the untrained nearest neighbour that a recipe describes, on the CPU."""
    from counterview.config import load_config
    from counterview.omama.config import OMaMaConfig
    from counterview.omama.model import OMaMa
    from counterview.tiny.config import TinyMatchConfig
    from counterview.tiny.model import TinyMatch

    is_tiny = source.method == "tiny-match"
    if source.folder is not None:
        return TinyMatch.from_pretrained(source.folder) if is_tiny else OMaMa.from_pretrained(source.folder)
    settings = dict(source.settings or {})
    return TinyMatch(load_config(TinyMatchConfig, settings)) if is_tiny else OMaMa(load_config(OMaMaConfig, settings))


def _folder(source: Source) -> os.PathLike[str]:
    if source.folder is None:
        raise ConfigError(f"the model {source.name} has no weights")
    return source.folder
