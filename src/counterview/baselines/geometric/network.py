"""What matchers share whose network is one model of transformers."""

from __future__ import annotations

import dataclasses
from typing import Any

from counterview.baselines.geometric.weights import ADVICE


class NetworkMatcher:
    """A matcher around one network.

    Args:
        settings: a dataclass with ``weights``, a Hub id or a folder made by ``save_pretrained``, and ``device``.
        model: the network, used instead of ``settings.weights``.

    Raises:
        WeightsError: the weights are not on this machine, and the Hub cannot be reached or refuses.
        CheckpointError: the folder's weights are not those of :attr:`network_class`.
        ConfigError: a device that is not available.
    """

    name: str
    network_class: str  # of transformers

    def __init__(self, settings: Any, model: Any = None) -> None:
        from counterview.devices import resolve_device

        self._settings = settings
        self.device = resolve_device(settings.device)
        if model is None:
            from counterview.hub import transformers_class
            from counterview.proposals.weights import load_network

            network_class = transformers_class(self.network_class)
            model = load_network(network_class, settings.weights, f"geometric:{self.name}", advice=ADVICE)
        self._model: Any = model.to(self.device).eval()
        self._fingerprint: str | None = None

    def settings(self) -> dict[str, Any]:
        """All settings but the device, and a fingerprint of the weights."""
        from counterview.nn.weights import weights_fingerprint

        if self._fingerprint is None:
            self._fingerprint = weights_fingerprint(self._model)
        values = dataclasses.asdict(self._settings)
        del values["device"]
        return {**values, "weights_sha256": self._fingerprint}
