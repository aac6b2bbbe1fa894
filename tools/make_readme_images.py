"""The images of the README and of the site: ``python -m tools.make_readme_images FOLDER``.

``match.jpg``: objects of the bundled pair in the query image, and where ``counterview.load()`` finds them in the target
image. ``follow.webp``: the same through the ten annotated seconds of the bundled take, each second matched by itself.
Nothing is chosen by hand and nothing retouched: wrong matches are drawn as they come. The same versions give the same
images.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import counterview
from counterview.data import Take, open_dataset
from counterview.masks.draw import PALETTE, overlay, side_by_side
from counterview.masks.geometry import iou, resize_mask
from counterview.types import Match, ObjectMask, RgbImage

ASSETS = Path(str(files("counterview"))) / "assets"
COLORS = (*PALETTE, "#f2e33a", "#a1785c")
TRUTH = "#ffffff"
HEIGHT_PX = 400
CAPTION_PX = 28
FRAME_MS = 800
QUALITY = 72
LIMIT_BYTES = 1_500_000
"""Both images together: a README is read over slow connections too."""


def main() -> int:
    """Write both images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write, for instance docs/images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    model = counterview.load()
    paths = [still(model, options.out / "match.jpg"), animation(model, options.out / "follow.webp")]
    size = sum(path.stat().st_size for path in paths)
    for path in paths:
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    if size > LIMIT_BYTES:
        print(f"together {size} bytes, more than {LIMIT_BYTES}")
        return 1
    return 0


def still(model: counterview.Predictor, path: Path) -> Path:
    """The bundled pair: query objects, and their matches."""
    folder = ASSETS / "pair"
    query_image, target_image = (counterview.read_image(folder / f"{name}.jpg") for name in ("ego", "exo"))
    masks = {
        file.stem.removeprefix("ego_"): ObjectMask.from_array(counterview.read_mask(file))
        for file in sorted(folder.glob("ego_*.png"))
    }
    matches = model.match(query_image, masks, target_image)
    truth = {name: ObjectMask.from_array(counterview.read_mask(folder / f"exo_{name}.png")) for name in masks}
    scores = [iou(match.mask_rle, truth[match.name]) for match in matches]
    print(f"pair: mean IoU {np.mean(scores):.2f} over {len(scores)} objects")
    drawn = draw(query_image, masks, target_image, matches, list(masks))
    captions = ("query image, one mask an object", "target image, what counterview.load() finds")
    Image.fromarray(caption(drawn, captions)).save(path, quality=88, optimize=True)
    return path


def animation(model: counterview.Predictor, path: Path) -> Path:
    """The bundled take, ego to exo, one image a second."""
    take = open_dataset(ASSETS / "take", "test").takes[0]
    ego, exo = take.ego_cameras[0], take.exo_cameras[0]
    images, scores = [], []
    for number in annotated(take, ego):
        query_image, target_image = take.frame(ego, number), take.frame(exo, number)
        masks = {
            name: resize_mask(mask, query_image.shape[:2])
            for name in take.objects
            if ego in take.cameras_of(name) and (mask := take.mask(name, ego, number)) is not None
        }
        matches = model.match(query_image, masks, target_image)
        truth = {
            name: resize_mask(mask, target_image.shape[:2])
            for name in masks
            if exo in take.cameras_of(name) and (mask := take.mask(name, exo, number)) is not None
        }
        scores += [iou(match.mask_rle, truth[match.name]) for match in matches if match.name in truth]
        drawn = draw(query_image, masks, target_image, matches, take.objects, list(truth.values()))
        captions = (f"ego camera, second {number // 30}: given", "exo camera: found; white lines: the annotation")
        images.append(Image.fromarray(caption(drawn, captions)))
    print(f"take: mean IoU {np.mean(scores):.2f} over {len(scores)} visible objects in {len(images)} frames")
    images[0].save(path, save_all=True, append_images=images[1:], duration=FRAME_MS, loop=0, quality=QUALITY, method=6)
    return path


def annotated(take: Take, camera: str) -> list[int]:
    """Frames in which some object has a mask in the camera."""
    frames = {f for name in take.objects if camera in take.cameras_of(name) for f in take.mask_frames(name, camera)}
    return sorted(frames)


def draw(
    query_image: RgbImage,
    masks: Mapping[str, ObjectMask],
    target_image: RgbImage,
    matches: Sequence[Match],
    names: Sequence[str],
    truth: Sequence[ObjectMask] = (),
) -> RgbImage:
    """Both images ``(H, W, 3)`` beside each other, an object in one colour. What is called not visible is left out."""
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    visible = [match for match in matches if match.visibility > 0.5]
    left = overlay(query_image, list(masks.values()), colors=[colors[name] for name in masks], opacity=0.45)
    right = overlay(target_image, [m.mask_rle for m in visible], colors=[colors[m.name] for m in visible], opacity=0.45)
    right = overlay(right, truth, colors=[TRUTH] * len(truth), opacity=0.0, thickness_px=1)
    return side_by_side(left, right, max_height_px=HEIGHT_PX)


def caption(image: RgbImage, texts: tuple[str, str]) -> RgbImage:
    """A white line of text above each half of an image ``(H, W, 3)`` whose left half is the square query."""
    height, width = image.shape[:2]
    page = Image.new("RGB", (width, height + CAPTION_PX), "white")
    page.paste(Image.fromarray(image), (0, CAPTION_PX))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(15)
    pen.text((2, 5), texts[0], fill="#303030", font=font)
    pen.text((height + 10, 5), texts[1], fill="#303030", font=font)
    return np.asarray(page)


if __name__ == "__main__":
    raise SystemExit(main())
