"""Pre- and postprocessing against torch and pillow themselves, and on what is no frame."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ensembles.steps import (
    MAX_PIXELS,
    FrameFault,
    InputSize,
    Normalisation,
    decode,
    labels_of,
    normalise,
    preprocess_frame,
    preprocess_image,
    resize,
    to_channels,
    top_k,
)

IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def image_bytes(pixels: np.ndarray, kind: str, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format=kind)
    return buffer.getvalue()


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 9))
def test_normalising_is_what_torch_does(height: int, width: int, seed: int) -> None:
    pixels = frame(height, width, seed)
    ours = normalise(pixels, IMAGENET)
    scaled = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    mean = torch.tensor(IMAGENET.mean)[:, None, None]
    std = torch.tensor(IMAGENET.std)[:, None, None]
    np.testing.assert_allclose(ours, ((scaled - mean) / std).numpy(), atol=1e-5)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous


def test_a_lossless_image_is_its_own_frame_and_a_jpeg_is_pillows() -> None:
    pixels = frame(17, 23)
    np.testing.assert_array_equal(decode(image_bytes(pixels, "PNG")), pixels)
    jpeg = image_bytes(pixels, "JPEG")
    np.testing.assert_array_equal(decode(jpeg), np.asarray(Image.open(io.BytesIO(jpeg))))


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "L"), ("PNG", "RGBA"), ("PNG", "P"), ("JPEG", "CMYK")])
def test_every_mode_becomes_rgb(kind: str, mode: str) -> None:
    assert decode(image_bytes(frame(5, 6), kind, mode)).shape == (5, 6, 3)


def test_resizing_is_bilinear_and_keeps_what_fits() -> None:
    pixels = frame(30, 40)
    expected = Image.fromarray(pixels).resize((16, 8), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize(pixels, 8, 16), np.asarray(expected))
    assert resize(pixels, 30, 40) is pixels


def test_an_image_and_its_frame_give_the_same_input() -> None:
    pixels, size = frame(30, 40), InputSize(channels=3, height=8, width=16)
    from_image = preprocess_image(image_bytes(pixels, "PNG"), size, IMAGENET)
    np.testing.assert_array_equal(from_image, preprocess_frame(pixels, size, IMAGENET))
    assert from_image.shape == (3, 8, 16)


def test_a_large_jpeg_is_decoded_smaller_and_hardly_differs() -> None:
    coarse = Image.fromarray(frame(27, 48)).resize((960, 540), Image.Resampling.BICUBIC)
    jpeg, size = image_bytes(np.asarray(coarse), "JPEG"), InputSize(channels=3, height=56, width=56)
    assert decode(jpeg, (112, 112)).shape == (135, 240, 3)
    assert decode(jpeg, (500, 500)).shape == (540, 960, 3), "never below what is enough"
    difference = preprocess_image(jpeg, size, IMAGENET) - preprocess_frame(decode(jpeg), size, IMAGENET)
    assert np.abs(difference).mean() < 0.02


def test_one_channel_is_luminance() -> None:
    grey = np.repeat(frame(4, 5)[:, :, :1], 3, axis=2)
    ours = normalise(to_channels(grey, 1), Normalisation(mean=(0.0,), std=(1.0,)))
    np.testing.assert_allclose(ours, grey[None, :, :, 0] / 255, atol=1e-6)


@pytest.mark.parametrize("data", [b"", b"no image", image_bytes(frame(64, 64), "JPEG")[:500]])
def test_what_is_no_whole_image_is_a_fault(data: bytes) -> None:
    with pytest.raises(FrameFault, match=f"^{len(data)} bytes that are no complete JPEG or PNG image"):
        decode(data)


def test_a_small_file_cannot_claim_a_huge_image() -> None:
    buffer = io.BytesIO()
    Image.new("1", (10_000, MAX_PIXELS // 10_000 + 1)).save(buffer, format="PNG")
    with pytest.raises(FrameFault, match="at most 50000000 are decoded"):
        decode(buffer.getvalue())


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_a_frame_of_another_shape_or_type_is_a_fault(bad: np.ndarray) -> None:
    with pytest.raises(FrameFault, match=r"expected uint8 \[height, width, 3\]"):
        resize(bad, 8, 8)


@given(classes=st.integers(1, 30), rows=st.integers(1, 4), seed=st.integers(0, 99), data=st.data())
def test_the_best_classes_are_torchs(classes: int, rows: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, classes))
    logits = np.random.default_rng(seed).standard_normal((rows, classes), dtype=np.float32) * 10
    indices, scores = top_k(logits, k)
    expected = torch.from_numpy(logits).softmax(-1).topk(k, dim=-1)
    np.testing.assert_allclose(scores, expected.values.numpy(), atol=1e-6)
    np.testing.assert_array_equal(np.take_along_axis(logits, indices, -1), np.sort(logits)[:, ::-1][:, :k])
    assert (indices.dtype, scores.dtype) == (np.int32, np.float32)


def test_equal_classes_come_in_order_and_huge_logits_do_not_overflow() -> None:
    indices, scores = top_k(np.array([[1e30, 1e30, -1e30]], dtype=np.float32), 2)
    assert indices.tolist() == [[0, 1]]
    assert scores.tolist() == [[0.5, 0.5]]
    with pytest.raises(ValueError, match="top 4 of 3 classes"):
        top_k(np.zeros((1, 3), dtype=np.float32), 4)


def test_labels_are_utf8_in_the_shape_of_the_classes() -> None:
    named = labels_of(np.array([[1, 0]], dtype=np.int32), ["Käfer", "cat"])
    assert named.tolist() == [[b"cat", "Käfer".encode()]]
    assert named.dtype == np.object_
