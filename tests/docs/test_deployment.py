"""The page on deployment: its ROS 2 node follows an object, with stand-ins for the packages of ROS."""

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import counterview
from tests.inference.coloured_videos import ColourPredictor, shift
from tests.tracking.coloured import draw

TEXT = (Path(__file__).parents[2] / "docs" / "how-to" / "deployment.md").read_text(encoding="utf-8")
BLOCK = re.search(r"^```python\n(.*?)^```", TEXT[TEXT.index("## ROS 2") :], re.MULTILINE | re.DOTALL)
SIZE = (240, 320)


@dataclass
class Message:
    """Fields as in sensor_msgs/Image, geometry_msgs/PointStamped and std_msgs/Float32."""

    header: object = None
    height: int = 0
    width: int = 0
    encoding: str = ""
    step: int = 0
    data: object = b""
    point: object = None


@dataclass
class Publisher:
    sent: list = field(default_factory=list)

    def publish(self, message):
        self.sent.append(message)


class Node:
    def __init__(self, name):
        self.name, self.publishers, self.subscribed, self.warnings = name, {}, {}, []

    def declare_parameter(self, name, value):
        return SimpleNamespace(name=name, value=value)

    def create_publisher(self, kind, topic, depth):
        return self.publishers.setdefault(topic, Publisher())

    def create_subscription(self, kind, topic, callback, depth):
        self.subscribed[topic] = callback

    def get_logger(self):
        return SimpleNamespace(warning=self.warnings.append)


class Synchronizer:
    def __init__(self, subscribers, queue_size, slop):
        self.subscribers = subscribers

    def registerCallback(self, callback):
        self.callback = callback


def image(boxes, time_s, encoding="rgb8", padding=8):
    """A message whose rows are longer than their pixels, as cameras send them."""
    pixels = draw(boxes, SIZE)
    pixels = pixels[..., ::-1] if encoding == "bgr8" else pixels
    rows = np.pad(pixels.reshape(SIZE[0], -1), ((0, 0), (0, padding)))
    header = SimpleNamespace(stamp=SimpleNamespace(sec=int(time_s), nanosec=int(time_s % 1 * 1e9)))
    return Message(header, *SIZE, encoding, rows.shape[1], rows.tobytes())


@pytest.fixture
def node(monkeypatch):
    names = {
        "rclpy": {}, "rclpy.node": {"Node": Node}, "geometry_msgs": {}, "geometry_msgs.msg": {"PointStamped": Message},
        "sensor_msgs": {}, "sensor_msgs.msg": {"Image": Message}, "std_msgs": {}, "std_msgs.msg": {"Float32": Message},
        "message_filters": {
            "ApproximateTimeSynchronizer": Synchronizer, "Subscriber": lambda node, kind, topic: (kind, topic),
        },
    }  # fmt: skip
    for name, values in names.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    asked = []
    monkeypatch.setattr(counterview, "load", lambda **options: asked.append(options) or ColourPredictor())
    space = {"__name__": "node"}
    exec(compile(BLOCK[1], "deployment.md", "exec"), space)
    made = space["Follow"]()
    assert asked == [{"runtime": "onnx"}]
    return made


def test_the_node_follows_what_was_clicked(node):
    boxes = {"red": (140, 120, 70, 60), "blue": (230, 20, 40, 50)}
    masks, visibilities = node.publishers["object_mask"].sent, node.publishers["object_visibility"].sent
    node.pairs.callback(image(boxes, 0.0), image(boxes, 0.0))
    assert masks == []  # nothing was shown yet
    node.subscribed["object_point"](Message(point=SimpleNamespace(x=178.0, y=154.0, z=0.0)))
    for number in range(1, 4):
        wrist = shift(boxes, -3 * number)
        node.pairs.callback(image(boxes, number / 2), image(wrist, number / 2, encoding="bgr8"))
    assert len(masks) == len(visibilities) == 3
    for number, message in enumerate(masks, start=1):
        assert (message.height, message.width, message.encoding, message.step) == (*SIZE, "mono8", SIZE[1])
        mask = np.frombuffer(message.data, np.uint8).reshape(SIZE)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, width, height = shift(boxes, -3 * number)["red"]
        found = (columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0])
        assert np.abs(np.subtract(found, (x, y, width, height))).max() <= 2
    assert all(message.data > 0.5 for message in visibilities)
    assert node.warnings == []


def test_the_node_says_what_it_cannot_use_and_goes_on(node):
    boxes = {"red": (140, 120, 70, 60)}
    node.pairs.callback(image(boxes, 1.0, encoding="yuv422"), image(boxes, 1.0))
    assert "yuv422" in node.warnings[0]
    node.subscribed["object_point"](Message(point=SimpleNamespace(x=9999.0, y=0.0, z=0.0)))
    node.pairs.callback(image(boxes, 2.0), image(boxes, 2.0))
    assert "outside" in node.warnings[1]


def test_the_node_has_about_fifty_lines():
    assert len([line for line in BLOCK[1].splitlines() if line.strip()]) <= 60
