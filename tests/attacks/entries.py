"""What is attacked: for each reader of files small valid ones, made here, the damage that pays, and what is right."""

from __future__ import annotations

import io
import json
import math
import shutil
import struct
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.attacks import mutations as m
from tests.attacks.annotations import ANNOTATION_ENTRIES
from tests.attacks.entry import Entry
from tests.attacks.following import StateEntry, StepsEntry
from tests.attacks.outputs import OutputEntry

SIZE = (24, 32)
_RGB = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------------- images


def encoded_images(exif: bytes | None = None) -> list[tuple[str, bytes]]:
    """Small images of all formats and many modes."""
    from PIL import Image

    rgb = Image.fromarray(_RGB)
    grey, bits = rgb.convert("L"), Image.fromarray(_RGB[..., 0] > 128)
    deep = Image.fromarray(_RGB[..., 0].astype(np.uint16) * 257)
    alpha = Image.fromarray(np.dstack([_RGB, _RGB[..., 0]]))
    palette, floats = grey.convert("P"), Image.fromarray(_RGB[..., 0].astype(np.float32) / 255)
    two = bits.convert("L").convert("P")
    made: list[tuple[Any, str, dict[str, Any]]] = [
        (rgb, "JPEG", {}), (rgb, "JPEG", {"progressive": True}), (grey, "JPEG", {}), (rgb.convert("CMYK"), "JPEG", {}),
        (rgb, "PNG", {}), (bits, "PNG", {}), (deep, "PNG", {}), (alpha, "PNG", {}), (palette, "PNG", {}), (two, "PNG",
        {}),
        (palette, "PNG", {"transparency": 3}), (rgb, "WEBP", {}), (alpha, "WEBP", {"lossless": True}),
        (rgb, "BMP", {}), (palette, "BMP", {}), (bits, "BMP", {}), (rgb, "PPM", {}), (bits, "PPM", {}),
        (rgb, "TIFF", {}), (floats, "TIFF", {}), (deep, "TIFF", {}), (bits, "TIFF", {"compression": "group4"}),
        *((rgb, "TIFF", {"compression": how}) for how in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")),
        (alpha, "TIFF", {"compression": "tiff_adobe_deflate"}), (palette, "TIFF", {"compression": "tiff_lzw"}),
    ]  # fmt: skip
    files = []
    for image, form, options in made:
        out = io.BytesIO()
        if exif is not None and form in ("JPEG", "PNG", "WEBP", "TIFF") and "compression" not in options:
            options = {**options, "exif": exif}
        image.save(out, form, **options)
        files.append((f".{form.lower()}", out.getvalue()))
    return files


def _check_rgb(image: Any) -> None:
    assert (image.ndim, image.shape[2], image.dtype) == (3, 3, np.uint8)
    assert image.size


class ImageEntry(Entry):
    """Images of all formats."""

    name = "image"
    mutations = (*m.BLIND, m.png_chunks, m.tiff_tags, m.tiff_tags)

    def prepare(self) -> None:
        self.seeds = encoded_images()

    def read(self, rng: Random) -> str:
        from counterview.media.images import read_image

        image = read_image(self.path if rng.random() < 0.9 else str(self.path))
        _check_rgb(image)
        return "answer"


class ExifEntry(ImageEntry):
    """Images with EXIF."""

    name = "exif"
    mutations = (m.exif, m.exif, m.exif, m.tiff_tags, m.png_chunks, m.flip)

    def prepare(self) -> None:
        from PIL import Image

        exif = Image.Exif()
        exif[0x0112], exif[0x010E], exif[0x011A] = 6, "made here", 72.0
        exif.get_ifd(0x8769)[0x9003] = "2020:01:01 00:00:00"
        files = encoded_images(exif.tobytes())
        self.seeds = [file for file in files if file[0] in (".jpeg", ".png", ".webp", ".tiff")]


class MaskEntry(ImageEntry):
    """Masks of one object, with hard and soft edges, and index images of several."""

    name = "mask"

    def prepare(self) -> None:
        from PIL import Image

        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        soft = np.clip(8 - np.hypot(y - 12, x - 16), 0, 1) * 255
        labels = (x // 11).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6
        self.seeds = encoded_images()
        for values in (soft.astype(np.uint8), labels * 60, labels.astype(np.uint16) * 300, labels // 2 * 255):
            out = io.BytesIO()
            Image.fromarray(values).save(out, "PNG", exif=exif)
            self.seeds.append((".png", out.getvalue()))

    def read(self, rng: Random) -> str:
        from counterview.errors import MaskError
        from counterview.masks.png import read_index_masks, read_mask
        from counterview.types import ObjectMask

        try:
            mask = read_mask(self.path, label=rng.choice((None, None, 60)))
            assert (mask.ndim, mask.dtype) == (2, np.bool_)
            encoded = ObjectMask.from_array(mask)
            assert encoded.area == int(mask.sum())
            assert encoded.is_empty or encoded.centroid_xy is not None
        except MaskError as error:
            if "case" not in str(error) and "runs" not in str(error):
                raise
            masks = read_index_masks(self.path)
            assert all(not mask.is_empty for mask in masks.values())
        return "answer"


# ------------------------------------------------------------------------------------------------------- videos


class VideoEntry(Entry):
    """Videos of several containers and codecs."""

    name = "video"
    mutations = (*m.BLIND, m.boxes, m.boxes, m.boxes)

    def prepare(self) -> None:
        from tests.data_egoexo.release_maker import write_video

        for suffix, codec, options in (
            (".mp4", "libx264", {"preset": "ultrafast", "g": "5"}), (".mov", "libx264", {"g": "8", "bf": "2"}),
            (".mp4", "mpeg4", {"g": "4"}), (".mkv", "libx264", {"g": "8"}), (".avi", "mpeg4", {"g": "4"}),
            (".ts", "libx264", {"g": "5", "bf": "2"}),
            (".mpg", "mpeg2video", {"g": "5", "bf": "2"}), (".webm", "libvpx", {"g": "5"}), (".mov", "mjpeg", {}),
        ):  # fmt: skip
            path = self.folder / f"seed{suffix}"
            try:
                write_video(path, 12, (32, 48), codec=codec, options=options)
            except Exception:  # a codec that this build of FFmpeg lacks
                continue
            self.seeds.append((suffix, path.read_bytes()))
        assert len(self.seeds) >= 4

    def read(self, rng: Random) -> str:
        from counterview.errors import VideoError
        from counterview.media.video import VideoReader

        with VideoReader(self.path, threads=1) as video:
            wanted = sorted({0, 3, 7, 11, min(video.frame_count - 1, 10**6), video.frame_count // 2})
            found = dict(video.read([number for number in wanted if number >= 0]))
            for image in found.values():
                if isinstance(image, VideoError):
                    assert "case" in str(image)
                else:
                    _check_rgb(image)
            return "skip" if any(isinstance(image, VideoError) for image in found.values()) else "answer"


class SoundEntry(Entry):
    """Sound tracks of several containers and codecs."""

    name = "sound"
    mutations = (*m.BLIND, m.boxes, m.boxes, m.boxes)

    def prepare(self) -> None:
        import av

        t = np.arange(8000) / 16000
        samples = (np.sin(2 * np.pi * 440 * t) * 20000).astype(np.int16)
        for suffix, codec, form in (
            (".mp4", "aac", "fltp"), (".mov", "pcm_s16le", "s16"), (".mkv", "pcm_s16le", "s16"), (".avi", "mp2", "s16"),
            (".ts", "aac", "fltp"), (".webm", "libopus", "s16"), (".mkv", "flac", "s16"),
        ):  # fmt: skip
            path = self.folder / f"seed{suffix}"
            try:
                with av.open(str(path), "w") as out:
                    stream: Any = out.add_stream(codec, rate=48000 if codec == "libopus" else 16000)
                    stream.codec_context.layout = "mono"
                    resampler = av.AudioResampler(format=form, layout="mono", rate=stream.codec_context.sample_rate)
                    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
                    frame.sample_rate = 16000
                    for block in [*resampler.resample(frame), *resampler.resample(None)]:
                        out.mux(stream.encode(block))
                    out.mux(stream.encode(None))
            except Exception:  # a codec that this build of FFmpeg lacks
                continue
            self.seeds.append((suffix, path.read_bytes()))
        assert len(self.seeds) >= 4

    def read(self, rng: Random) -> str:
        from counterview.media.sound import MAX_SOUND_S, RATE, read_sound

        sound = read_sound(self.path, rng.choice((0.0, 0.5)))
        if sound is None:
            return "skip"
        assert sound.samples.dtype == np.int16
        assert 0 < len(sound.samples) <= MAX_SOUND_S * RATE
        assert math.isfinite(sound.start_s)
        return "answer"


# ------------------------------------------------------------------------------------------------------- data sets


class AnnotationEntry(Entry):
    """Annotations: a release, and a prepared folder."""

    name = "annotation"
    mutations = (m.json_values, m.json_values, m.json_values, *m.BLIND)

    def prepare(self) -> None:
        from tests.data_egoexo.release_maker import TakeSpec, make_release
        from tests.omama.tiny_takes import write_takes

        release = make_release(self.folder / "release", [TakeSpec("u1", "t1", 31), TakeSpec("u2", "t2", 31)])
        prepared = write_takes(self.folder / "prepared", takes=2, frames=1, splits={"val": 2})
        self.files = [
            (release, release / "annotations" / "relations_val.json"), (release, release / "takes.json"),
            (prepared, prepared / "take0" / "annotation.json"), (prepared, prepared / "split.json"),
        ]  # fmt: skip
        self.valid = {path: path.read_bytes() for _, path in self.files}
        self.names = ()

    def damage(self, rng: Random) -> None:
        for path, data in self.valid.items():
            path.write_bytes(data)
        self.root, self.path = rng.choice(self.files)
        self.path.write_bytes(self.damaged(self.valid[self.path], self.path.name, rng))

    def read(self, rng: Random) -> str:
        from counterview.data.clips import clip_sources
        from counterview.data.open import open_dataset
        from counterview.data.pairs import pairs_of_take
        from counterview.errors import CounterviewError
        from counterview.evaluation.groundtruth import GroundTruth
        from counterview.masks.geometry import fit_mask

        ended = []
        try:
            dataset = open_dataset(self.root, "val" if rng.random() < 0.8 else None)
            problems = 0
            for uid in dataset.uids[:5]:
                try:
                    take = dataset.take(uid)
                    for name in take.objects:
                        for camera in take.cameras_of(name):
                            for mask in take.track(name, camera).masks.values():
                                assert 0 <= mask.area <= mask.size_hw[0] * mask.size_hw[1]
                                fit_mask(mask, (16, 16))
                    for direction in ("ego2exo", "exo2ego"):
                        pairs_of_take(take, direction, targets="official", need_images=False)
                    for camera in take.cameras[:3]:
                        take.native_size(camera)
                        take.has_frame(camera, 0)
                    problems += len(take.problems)
                except CounterviewError:
                    problems += 1
            if not problems:
                clip_sources(dataset, "ego2exo", length=1, need_images=False)
            ended.append("skip" if problems else "answer")
        except CounterviewError as error:
            ended.append(error)
        try:
            place = self.path if self.path.name.startswith("relations") else self.root
            if place.is_file() or self.root.name == "prepared":
                for take in GroundTruth(place):
                    for name, cameras in take.objects.items():
                        for camera, track in cameras.items():
                            for frame in track.masks:
                                try:
                                    take.mask(name, camera, frame)
                                except CounterviewError:
                                    ended.append("skip")
        except CounterviewError as error:
            ended.append(error)
        for each in ended:
            if isinstance(each, CounterviewError):
                raise each
        return "skip" if "skip" in ended else "answer"


class PredictionEntry(Entry):
    """Prediction files, scored under every protocol."""

    name = "prediction"
    mutations = (m.json_values, m.json_values, m.json_values, *m.BLIND)

    def prepare(self) -> None:
        from counterview.masks.rle import to_coco
        from counterview.types import ObjectMask

        def mask(shift: int) -> ObjectMask:
            array = np.zeros((54, 96), dtype=bool)
            array[10:30, 20 + shift : 50 + shift] = True
            return ObjectMask.from_array(array)

        frames = ("0", "30")
        truth = {
            "t": {
                "masks": {"cup": {c: {f: to_coco(mask(5)) for f in frames} for c in ("aria01_214-1", "cam01")}},
                "annotated_frames": {"cup": {c: [0, 30] for c in ("aria01_214-1", "cam01")}},
                "subsample_idx": [0, 30], "take_name": "t", "scenario": "s",
            }
        }  # fmt: skip
        (self.folder / "gt.json").write_text(json.dumps({"annotations": truth}))

        def scaled(shift: int) -> dict[str, Any]:
            from counterview.masks.geometry import resize_mask

            return to_coco(resize_mask(mask(shift), (270, 480)))

        pairs = {"aria01_214-1_cam01": {f: {"pred_mask": scaled(9), "confidence": 0.9} for f in frames}}
        part = {
            "version": "0.0.1",
            "challenge": "xview",
            "results": {"t": {"masks": {"cup": pairs}, "subsample_idx": [0, 30]}},
        }
        self.seeds = [(".json", json.dumps({"ego-exo": part}).encode())]
        self.names = ()

    def read(self, rng: Random) -> str:
        from counterview.evaluation.protocol import evaluate

        protocol = rng.choice(("official", "omama", "lmeec", "corrected", "macro", "visible"))
        self.about += f" {protocol}"
        report = evaluate(self.folder / "gt.json", self.path, "ego2exo", protocol=protocol, missing="count-absent")
        for value in (report.totals.iou, report.totals.contour_accuracy, report.totals.balanced_accuracy):
            assert math.isnan(value) or 0 <= value <= 1 + 1e-9, value
        return "skip" if report.notes else "answer"


class CorrectionEntry(Entry):
    """Corrections of tracks, and the masks that they name."""

    name = "corrections"
    mutations = (m.json_values, m.json_values, m.json_values, *m.BLIND)

    def prepare(self) -> None:
        from counterview.masks.png import write_mask_png
        from counterview.types import ObjectMask

        dense = np.zeros(SIZE, bool)
        dense[3:12, 4:20] = True
        write_mask_png(self.folder / "cup.png", dense)
        rle = ObjectMask.from_array(dense).to_coco()
        entries: list[dict[str, Any]] = [
            {"mask": rle}, {"mask_png": "cup.png"}, {"point": [12, 7.5]}, {"point": "12,7+14,9-2,3"},
            {"box": [3, 4, 20, 12]}, {"box": "3,4,20,12+9,9"}, {"absent": True},
        ]  # fmt: skip
        for number, entry in enumerate(entries):
            entry |= {"object": "cup", "camera": "cam01"}
            entry |= {"frame": 30 * number} if number % 2 else {"time_s": number / 2}
        self.seeds = [(".json", json.dumps({"corrections": part}).encode()) for part in (entries, entries[:1], [])]

    def read(self, rng: Random) -> str:
        from counterview.inference.corrections import check_corrections, read_corrections

        corrections = read_corrections(self.path)
        assert all((item.time_s is None) != (item.frame is None) for item in corrections)
        check_corrections(corrections, {"cam01": SIZE}, ["cup"])
        return "answer"


# ------------------------------------------------------------------------------------------------------- recipes


class RecipeEntry(Entry):
    """Recipes, and any text in YAML."""

    name = "recipe"
    mutations = (m.yaml_words, m.yaml_words, m.yaml_words, *m.BLIND)

    def prepare(self) -> None:
        root = Path(__file__).parents[2] / "recipes"
        paths = sorted(root.rglob("*.yaml"))
        self.seeds = [(".yaml", path.read_bytes()) for path in paths[:: max(1, len(paths) // 12)]]

    def read(self, rng: Random) -> str:
        from counterview.training.recipe import load_recipe

        recipe = load_recipe(self.path, ["training.lr=1e-5"] if rng.random() < 0.2 else [])
        json.dumps(recipe.to_dict(), default=str)
        return "answer"


# ------------------------------------------------------------------------------------------------------- arrays


class ArrayEntry(Entry):
    """Masks and boxes that another tool made: ``.npz``, ``.npy`` and COCO files, as proposals and for the oracle."""

    name = "npz"
    mutations = (m.zip_members, m.zip_members, m.zip_fields, *m.BLIND)

    def prepare(self) -> None:
        from counterview.masks.rle import to_coco
        from counterview.types import ObjectMask

        masks = np.zeros((3, *SIZE), bool)
        for index in range(3):
            masks[index, 2 + index : 12, 3 : 20 + index] = True
        self.archives = []
        for save, value in (
            (np.savez, masks), (np.savez_compressed, masks), (np.savez_compressed, masks.astype(np.uint8)),
            (np.savez, masks.astype(np.float32)), (np.savez, masks[:1].copy(order="F")),
        ):  # fmt: skip
            out = io.BytesIO()
            save(out, value)
            self.archives.append(out.getvalue())
        out = io.BytesIO()
        np.save(out, np.arange(12.0).reshape(3, 4))
        self.boxes = out.getvalue()
        listed = [
            {"segmentation": to_coco(ObjectMask.from_array(mask)), "score": 0.5, "image_id": 1, "bbox": [1, 2, 3, 4]}
            for mask in masks
        ]
        listed.append({"segmentation": [[1, 1, 20, 1, 20, 12, 1, 12]], "score": 0.1, "image_id": 1})
        self.coco = json.dumps(listed).encode()
        self.collection = json.dumps({"images": [{"id": 1, "file_name": "x/case.jpg"}], "annotations": listed}).encode()
        (self.folder / "t" / "c").mkdir(parents=True)

    def damage(self, rng: Random) -> None:
        for path in (*self.folder.glob("*.np?"), *self.folder.glob("*.json"), *(self.folder / "t" / "c").iterdir()):
            path.unlink()
        self.kind = rng.choice(("npz", "npz", "npy", "coco", "collection", "oracle"))
        archive = rng.choice(self.archives)
        if self.kind in ("npz", "oracle"):
            place = self.folder if self.kind == "npz" else self.folder / "t" / "c"
            self.path = place / "0_masks.npz"
            self.path.write_bytes(self.damaged(archive, "npz", rng))
        elif self.kind == "npy":
            (self.folder / "0_masks.npz").write_bytes(self.archives[0])
            self.path = self.folder / "0_boxes.npy"
            self.path.write_bytes(self.damaged(self.boxes, "npy", rng, (*m.BLIND, m.npy_header, m.npy_header)))
        else:
            data = self.coco if self.kind == "coco" else self.collection
            self.path = self.folder / ("case.json" if self.kind == "coco" else "all.json")
            self.path.write_bytes(self.damaged(data, self.kind, rng, (m.json_values, m.json_values, *m.BLIND)))
        self.names = (self.path.name, self.folder.name)

    def read(self, rng: Random) -> str:
        from counterview.evaluation.oracle import ProposalFiles
        from counterview.proposals import load_proposer

        if self.kind == "oracle":
            found = ProposalFiles(self.folder).get("t", "c", 0)
            assert found is not None
            return "answer"
        name = "0" if self.kind in ("npz", "npy") else "case"
        proposals = load_proposer(f"folder:{self.folder}")(np.zeros((*SIZE, 3), np.uint8), name)
        assert all(mask.size_hw == SIZE and not mask.is_empty for mask in proposals)
        assert np.isfinite(proposals.boxes_xywh).all()
        return "answer" if len(proposals) >= 3 else "skip"


# ------------------------------------------------------------------------------------------------------- models


class CheckpointEntry(Entry):
    """Models' folders, files of torch, saved sessions and folders of transformers."""

    name = "checkpoint"

    def prepare(self) -> None:
        import torch
        import transformers
        from safetensors.torch import save

        from tests.inference.small_models import small_lmeec, small_tiny_match

        torch.set_num_threads(1)
        transformers.utils.logging.disable_progress_bar()
        self.models = [small_tiny_match(self.folder / "seed-match"), small_lmeec(self.folder / "seed-follow")]
        config = transformers.Dinov2Config(
            hidden_size=8, num_hidden_layers=1, num_attention_heads=1, mlp_ratio=1, image_size=28, patch_size=14
        )
        transformers.Dinov2Model(config).save_pretrained(self.folder / "seed-dino")
        self.models.append(self.folder / "seed-dino")
        state = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}
        self.files = []
        for content in (
            state,
            {"model": state, "epoch": 3, "lr": 0.1},
            {"state_dict": torch.nn.Linear(2, 2).state_dict()},
        ):
            out = io.BytesIO()
            torch.save(content, out)
            self.files.append((".pt", out.getvalue()))
            out = io.BytesIO()
            torch.save(content, out, _use_new_zipfile_serialization=False)
            self.files.append((".pth", out.getvalue()))
        self.files.append((".safetensors", save(state)))
        from counterview.lmeec.model import LMEEC

        model = LMEEC.from_pretrained(self.models[1])
        session = model.session()
        image, mask = np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, bool)
        mask[5:15, 5:20] = True
        session.step(image, {"cup": mask}, image, frame=0)
        session.save(self.folder / "seed.safetensors")
        self.session, self.model = (self.folder / "seed.safetensors").read_bytes(), model

    def damage(self, rng: Random) -> None:
        self.kind = rng.choice(("model", "model", "file", "file", "session"))
        text, weights = (m.json_values, m.json_values, m.json_values, *m.BLIND), (m.safetensors_header, *m.BLIND)
        if self.kind == "model":
            seed = rng.choice(self.models)
            self.path = self.folder / "case"
            shutil.rmtree(self.path, ignore_errors=True)
            shutil.copytree(seed, self.path)
            if rng.random() < 0.6:
                file = self.path / "config.json"
                file.write_bytes(self.damaged(file.read_bytes(), f"{seed.name} config", rng, text))
            else:
                file = self.path / "model.safetensors"
                file.write_bytes(self.damaged(file.read_bytes(), f"{seed.name} weights", rng, weights))
        elif self.kind == "file":
            suffix, data = rng.choice(self.files)
            self.path = self.folder / f"case{suffix}"
            way = weights if suffix == ".safetensors" else (m.zip_members, m.zip_members, m.zip_fields, *m.BLIND)
            self.path.write_bytes(self.damaged(data, suffix, rng, way))
        else:
            self.path = self.folder / "case.safetensors"
            self.path.write_bytes(self.damaged(self.session, "session", rng, weights))

    def read(self, rng: Random) -> str:
        from counterview.features import load_backbone
        from counterview.inference.loading import load
        from counterview.lmeec.config import LMEECConfig
        from counterview.lmeec.session import Session
        from counterview.lmeec.session_file import saved_config
        from counterview.nn.weights import read_released

        if self.kind == "file":
            state = read_released(self.path)
            assert all(isinstance(name, str) for name in state)
            return "answer"
        if self.kind == "session":
            saved_config(self.path, LMEECConfig)
            Session.load(self.model, self.path)
            return "answer"
        if (self.path / "preprocessor_config.json").exists() or "dino" in self.about:
            backbone = load_backbone(str(self.path), "cpu")
            assert backbone.encode(np.zeros((28, 28, 3), np.uint8)).tensor.shape == (8, 2, 2)
            return "answer"
        predictor = load(self.path, device="cpu")
        assert predictor.settings()
        return "answer"


class CacheEntry(Entry):
    """Entries of the caches of features and proposals, which are made again if they are damaged."""

    name = "cache"

    def prepare(self) -> None:
        from counterview.features.cache import ArrayStore
        from counterview.proposals import CachedProposer, Proposals
        from counterview.types import ObjectMask

        class Halves:
            name = "halves"

            def settings(self) -> dict[str, Any]:
                return {}

            def __call__(self, image: Any, name: str | None = None) -> Proposals:
                left = np.zeros(SIZE, dtype=bool)
                left[:, : SIZE[1] // 2] = True
                return Proposals(SIZE, (ObjectMask.from_array(left), ObjectMask.from_array(~left)), [0.5, 0.25])

        self.halves, self.image = Halves(), _RGB
        self.arrays = [np.arange(12.0, dtype=np.float32).reshape(3, 4), np.zeros((0, 5), np.float32)]
        store = ArrayStore(self.folder / "features", {"a": 1})
        for number, array in enumerate(self.arrays):
            store.put(f"k{number}", array, {"image_hw": [1, 2]})
        self.entries = [store.path(f"k{n}") for n in range(len(self.arrays))]
        self.valid = [path.read_bytes() for path in self.entries]
        cached = CachedProposer(self.halves, self.folder / "proposals")
        cached(self.image)
        self.proposals = cached.path(self.image)
        self.valid_proposals = self.proposals.read_bytes()

    def damage(self, rng: Random) -> None:
        self.kind = rng.choice(("features", "proposals"))
        if self.kind == "proposals":
            data = self.damaged(self.valid_proposals, "proposals", rng, (m.json_values, m.json_values, *m.BLIND))
            self.proposals.write_bytes(_with_check(data) if rng.random() < 0.6 else data)
            return
        self.number = rng.randrange(len(self.entries))
        data = self.damaged(self.valid[self.number], "features", rng, (m.npy_header, m.npy_header, *m.BLIND))
        if rng.random() < 0.6:  # a right checksum around it
            body = data[:-24] if len(data) > 24 else data
            length = rng.choice((len(self.valid[self.number]) % 97, 0, len(body)))
            data = body + struct.pack("<QI8s", length % (len(body) + 1), zlib.crc32(body), b"cvarray1")
        self.entries[self.number].write_bytes(data)

    def read(self, rng: Random) -> str:
        from counterview.features.cache import ArrayStore
        from counterview.proposals import CachedProposer

        if self.kind == "proposals":
            found = CachedProposer(self.halves, self.folder / "proposals")(self.image)
            assert all(mask.size_hw == SIZE for mask in found)
            return "answer" if found == self.halves(self.image) else "skip"
        store = ArrayStore(self.folder / "features", {"a": 1})
        array = self.arrays[self.number]
        found_array = store.get_or_make(f"k{self.number}", lambda: array)
        np.asarray(found_array).sum()
        return "answer" if np.array_equal(found_array, array) else "skip"


def _with_check(data: bytes) -> bytes:
    """An entry of the cache of proposals with the checksum of what it holds."""
    from counterview.proposals.cache import _checksum

    try:
        entry = json.loads(data)
        body = {name: entry.get(name) for name in ("size", "counts", "scores", "boxes_xywh")}
        return json.dumps({**entry, "check": _checksum(body)}).encode()
    except Exception:
        return data


ENTRIES: dict[str, type[Entry]] = {
    cls.name: cls
    for cls in (
        *ANNOTATION_ENTRIES,
        ImageEntry, ExifEntry, MaskEntry, VideoEntry, SoundEntry, AnnotationEntry, PredictionEntry, RecipeEntry,
        ArrayEntry, CheckpointEntry, CacheEntry, OutputEntry, CorrectionEntry, StateEntry, StepsEntry,
    )
}  # fmt: skip
"""All entries by name."""
