"""Photographs as people have them: every kind is read right or refused with a reason."""

import io
import re
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image, ImageFile
from torch import nn

from evalib import recipes, unet
from evalib.camera import Camera, load_depth, load_photo, predict_pair, write_prediction

WHITE, BLACK, RED, GREY = (255, 255, 255), (0, 0, 0), (255, 0, 0), (128, 128, 128)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png16(values: np.ndarray) -> bytes:
    """A 16-bit PNG by the specification (Pillow writes grey only): (H, W, 1 to 4) uint16."""
    height, width, channels = values.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# reading


def test_path_text_and_uploads_give_the_same_photo(tmp_path):
    photo = noise(5, 7)
    data = encoded(Image.fromarray(photo), "PNG")
    path = tmp_path / "photo.jpg"  # the suffix lies: bytes decide
    path.write_bytes(data)
    for source in (path, str(path), data, memoryview(data)):
        read = load_photo(source)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, photo)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_exif_photo_is_upright(kind, orientation):
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16, :32] = 255  # white top left corner of a wide photo
    # EXIF: the stored rows and columns, were they turned as the tag says, give `upright`
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright.transpose(1, 0, 2), 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = load_photo(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif))
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).max() < 30  # JPEG and WEBP lose a little


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(kind):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    read = load_photo(encoded(Image.fromarray(values), kind))
    np.testing.assert_array_equal(read, np.stack([[[0, 0, 1, 128, 255]]] * 3, axis=-1))


def test_16_bit_tiff_of_the_other_byte_order_is_read():
    pixels = np.array([0x1234, 0xFFFF], ">u2").tobytes()
    entries = [(256, 2), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (278, 1), (279, 4)]
    tags = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    head = b"MM\0*" + struct.pack(">I", 12) + pixels + struct.pack(">H", len(entries))
    assert load_photo(head + tags + b"\0" * 4)[0].tolist() == [[0x12] * 3, [0xFF] * 3]


def test_16_bit_grey_rotated_by_exif():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it
    values = np.array([[0x1000, 0x2000]], np.uint16)
    read = load_photo(encoded(Image.fromarray(values), "PNG", exif=exif))
    assert read[..., 0].tolist() == [[0x10], [0x20]]


def test_16_bit_colour_keeps_its_colours():
    values = np.array([[[0x0000, 0x80FF, 0xFFFF], [0x1234, 0x5678, 0x9ABC]]], np.uint16)
    assert load_photo(png16(values))[0].tolist() == [[0, 0x80, 255], [0x12, 0x56, 0x9A]]


def test_16_bit_alpha_is_laid_on_white():
    values = np.array([[[0, 0, 0, 0], [65535, 0, 0, 65535]]], np.uint16)
    assert load_photo(png16(values))[0].tolist() == [list(WHITE), list(RED)]
    assert load_photo(png16(values[..., [1, 3]]))[0].tolist() == [list(WHITE), list(BLACK)]


def test_hidden_colours_of_transparent_parts_do_not_leak():
    rgba = np.array([[(255, 0, 0, 0), (255, 0, 0, 255), (0, 0, 0, 128)]], np.uint8)
    for kind in ("PNG", "TIFF"):
        read = load_photo(encoded(Image.fromarray(rgba), kind))[0]
        assert read.tolist() == [list(WHITE), list(RED), [127, 127, 127]]


def test_transparent_palette_is_laid_on_white():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        read = load_photo(encoded(image, kind, transparency=1))[0]
        assert read.tolist() == [list(RED), list(WHITE)]


@pytest.mark.parametrize(
    ("mode", "colour", "kind", "expected"),
    [
        ("L", 128, "PNG", GREY),
        ("L", 128, "JPEG", GREY),
        ("1", 1, "PNG", WHITE),
        ("LA", (128, 255), "PNG", GREY),
        ("CMYK", (0, 255, 255, 0), "JPEG", RED),
        ("CMYK", (0, 255, 255, 0), "TIFF", RED),
        ("RGB", RED, "BMP", RED),
        ("RGB", RED, "WEBP", RED),
    ],
)
def test_other_colour_spaces_become_rgb(mode, colour, kind, expected):
    read = load_photo(encoded(Image.new(mode, (16, 8), colour), kind))
    assert read.shape == (8, 16, 3)
    assert np.abs(read.astype(int) - expected).max() <= 3  # lossy kinds are off by a little


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (4, 4), RED), Image.new("RGB", (4, 4), WHITE)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_photo(data)[0, 0].tolist() == list(RED)


# refusing


def test_missing_file_and_folder_are_named(tmp_path):
    for path in (tmp_path / "nowhere.jpg", tmp_path):
        with pytest.raises(
            FileNotFoundError, match=re.escape(f"no picture at {path}: give the path")
        ):
            load_photo(path)


@pytest.mark.parametrize("data", [b"", b"import os\n", b"PK\3\4" + bytes(50), b"GIF89a"])
def test_not_a_picture_is_refused(data):
    with pytest.raises(ValueError, match="cannot read the picture of .*needed .*JPEG.*export"):
        load_photo(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF"])
def test_cut_or_damaged_file_is_an_error_never_a_half_grey_photo(kind, tmp_path):
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    path = tmp_path / "cut.jpg"
    for end in range(0, len(data) * 3 // 4, max(1, len(data) // 20)):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=re.escape(f"cannot read {path}")):
            load_photo(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF"])
def test_random_damage_raises_nothing_but_value_error(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {"exif": exif} if kind in ("JPEG", "PNG", "TIFF", "WEBP") else {}
    data = np.frombuffer(encoded(Image.fromarray(noise(16, 24)), kind, **options), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(100):
        broken = data.copy()
        broken[rng.integers(0, min(300, len(data)), 3)] = rng.integers(0, 256, 3)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow tells of odd metadata it skipped
                photo = load_photo(broken.tobytes())
        except ValueError as error:
            assert "cannot read the picture of" in str(error)
        else:
            assert photo.dtype == np.uint8
            assert photo.shape[2:] == (3,)


def test_postscript_is_never_interpreted(monkeypatch):
    from PIL import EpsImagePlugin

    def interpreter(*_args, **_options):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", interpreter)
    with pytest.raises(ValueError, match="cannot identify"):
        load_photo(encoded(Image.new("RGB", (8, 8)), "EPS"))


@pytest.mark.filterwarnings("ignore")  # the refusal must not hang on how warnings are set
@pytest.mark.parametrize("factor", [1.5, 3])  # Pillow warns above its limit, refuses above twice
def test_decompression_bomb_is_refused_before_it_is_unpacked(factor, monkeypatch):
    data = encoded(Image.new("1", (300, 100)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(300 * 100 / factor))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("was unpacked"))
    with pytest.raises(ValueError, match="decompression bomb.*at most 89 million pixels"):
        load_photo(data)


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 70_000), ("I", -1)])
def test_values_without_a_known_range_are_refused(mode, value):
    with pytest.raises(ValueError, match="not whole numbers of 16 bits"):
        load_photo(encoded(Image.new(mode, (2, 2), value), "TIFF"))


# predicting


class Stub(nn.Module):
    """Mask: is `fg_bg` brighter than `bg`? Depth: the red of `bg`. Keeps what it was shown."""

    def __deepcopy__(self, _):  # the one that was given is asked what it saw
        return self

    def forward(self, bg, fg_bg):
        self.seen = bg, fg_bg
        brighter = (fg_bg - bg).mean(1, keepdim=True)
        return {"mask_logits": 40 * brighter - 10, "depth_logits": bg[:, :1].logit(1e-6)}


def test_prediction_has_the_size_of_img_and_the_network_saw_the_working_size():
    model, bg = Stub(), np.full((300, 401, 3), 51, np.uint8)
    img = bg.copy()
    img[:, 200:] = 255
    mask_pred, depth_pred = predict_pair(model, bg, img, long_side=100)
    assert mask_pred.shape == depth_pred.shape == (300, 401)
    assert mask_pred.dtype == depth_pred.dtype == np.float32
    assert [tuple(x.shape) for x in model.seen] == [(1, 3, 75, 100)] * 2
    assert mask_pred[:, :190].max() < 0.01
    assert mask_pred[:, 210:].min() > 0.99
    np.testing.assert_allclose(depth_pred, 51 / 255, atol=1e-5)


def test_shrinking_averages_instead_of_picking_pixels():
    checks = np.zeros((64, 64, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 255
    model = Stub()
    predict_pair(model, checks, checks, long_side=32)
    np.testing.assert_allclose(model.seen[0], 0.5, atol=0.003)  # 127.5 in 8 bits


def test_maps_are_enlarged_smoothly():
    bg = np.zeros((32, 64, 3), np.uint8)
    bg[:, 32:] = 204
    _, depth_pred = predict_pair(Stub(), bg, bg, long_side=32)
    np.testing.assert_allclose(depth_pred[:, 30:34], [[0, 0.2, 0.6, 0.8]] * 32, atol=1e-5)


def test_bg_and_img_are_not_swapped_and_small_photos_are_not_enlarged():
    model, bg, img = Stub(), noise(20, 30, seed=1), noise(20, 30, seed=2)
    predict_pair(model, bg, img, long_side=128)
    for seen, photo in zip(model.seen, (bg, img), strict=True):
        expected = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255
        assert torch.equal(seen, expected)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 20), (33, 65)])
def test_a_real_network_takes_any_proportions(shape):
    mask_pred, depth_pred = predict_pair(
        recipes.build("small"), noise(*shape), noise(*shape, seed=1)
    )
    for prediction in (mask_pred, depth_pred):
        assert prediction.shape == shape
        assert ((prediction >= 0) & (prediction <= 1)).all()


def test_bg_of_another_size_and_the_same_proportions_is_scaled_with_a_note():
    model, img = Stub(), np.full((427, 640, 3), 200, np.uint8)
    bg = np.full((40, 60, 3), 200, np.uint8)
    with pytest.warns(UserWarning, match="bg is 60x40, img is 640x427.*bg is scaled"):
        mask_pred, _ = predict_pair(model, bg, img)
    assert mask_pred.shape == (427, 640)
    assert mask_pred.max() < 0.01
    assert [tuple(x.shape) for x in model.seen] == [(1, 3, 40, 60)] * 2  # neither is enlarged


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 62), (30, 61)])
def test_two_proportions_are_refused_with_both_sizes(height, width):
    text = f"bg is 60x80, img is {width}x{height} .*proportions differ; take both with"
    with pytest.raises(ValueError, match=text):
        predict_pair(Stub(), noise(80, 60), noise(height, width))


def test_arrays_that_are_no_photos_are_refused():
    photo = noise(4, 4)
    for wrong in (photo / 255.0, photo[..., 0], photo[:0], np.dstack([photo, photo[..., 0]])):
        with pytest.raises(ValueError, match="img is .*needed uint8.*load_photo"):
            predict_pair(Stub(), photo, wrong)
    with pytest.raises(ValueError, match="long_side is 15, needed 16 or more"):
        predict_pair(Stub(), photo, photo, long_side=15)


# a fixed camera


def test_a_camera_encodes_its_background_once_and_answers_as_without_keeping_it(monkeypatch):
    model, bg = recipes.build("small").eval(), noise(40, 60)
    frames = [noise(40, 60, seed) for seed in (1, 2, 3)]
    expected = [predict_pair(model, bg, frame) for frame in frames]
    encoded, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda x: encoded.append(len(x)) or encode(x))
    camera = Camera(model, bg)
    for frame, maps in zip(frames, expected, strict=True):
        np.testing.assert_allclose(camera(frame), maps, atol=1e-6)
    assert encoded == [1]


def test_a_camera_whose_frames_change_size_does_not_use_features_of_the_former_size():
    model, bg = recipes.build("small").eval(), noise(64, 96)
    camera = Camera(model, bg)
    for height, width in ((64, 96), (32, 48), (64, 96)):
        frame = noise(height, width, seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_allclose(camera(frame), predict_pair(model, bg, frame), atol=1e-6)


def test_one_point_calibrates_every_depth_and_replaces_an_earlier_one():
    bg = np.full((20, 40, 3), 51, np.uint8)  # the stub's depth: 2 m
    bg[:, 20:] = 153  # 6 m
    camera = Camera(Stub(), bg)
    for metres in (4.0, 1.0):
        camera.calibrate((2, 10, metres))
        assert camera.depth()[10, 2] == pytest.approx(metres, rel=0.02)
    depth_pred = camera(bg)[1]
    assert depth_pred.dtype == np.float32
    # 1 m instead of 2, in logits; nearly as much at the other end
    odds = (1 / 9) / (2 / 8) * 6 / 4
    assert depth_pred[0, -1] == pytest.approx(odds / (1 + odds), rel=0.1)


def test_points_that_say_different_things_are_each_right_where_they_are():
    bg = np.full((40, 80, 3), 102, np.uint8)  # 4 m
    camera = Camera(Stub(), bg)
    camera.calibrate((5, 20, 3.0), (74, 20, 5.0))
    depth = camera.depth()
    assert depth[20, 5] == pytest.approx(3, rel=0.04)
    assert depth[20, 74] == pytest.approx(5, rel=0.04)
    assert np.all(np.diff(depth[20, 5:75]) > -1e-4)
    assert depth[20, 40] == pytest.approx(4, rel=0.03)
    camera.calibrate()
    np.testing.assert_allclose(camera.depth(), 4, rtol=1e-4)


def test_what_is_far_for_the_network_stays_far():
    bg = np.full((20, 40, 3), 51, np.uint8)
    bg[:, 20:] = 255  # 10 m
    camera = Camera(Stub(), bg)
    camera.calibrate((2, 10, 1.0))
    assert camera.depth()[10, 39] > 9.5  # a factor would make it 5


@pytest.mark.parametrize(
    ("x", "y", "metres", "message"),
    [
        (40, 0, 3, r"pixel \(40, 0\) is not in bg, which is 40x20"),
        (0, -1, 3, "is not in bg"),
        (20, 10, 0, "distance is 0 m, needed more than 0"),
        (20, 10, float("nan"), "distance is nan m"),
        (39, 10, 3, r"at 10.00 m, where its depth is clipped; needed 0.1 to 9.9 m: choose another"),
        (0, 10, 3, "at 0.00 m, where its depth is clipped"),
    ],
)
def test_a_calibration_that_cannot_be_right_is_refused_and_changes_nothing(x, y, metres, message):
    bg = np.full((20, 40, 3), 51, np.uint8)
    bg[:, :5], bg[:, -5:] = 0, 255
    camera = Camera(Stub(), bg)
    with pytest.raises(ValueError, match=message):
        camera.calibrate((10, 10, 3.0), (x, y, metres))
    np.testing.assert_allclose(camera.depth()[10, 10], 2, rtol=1e-4)


def test_an_anchored_camera_answers_with_the_measured_ground(tmp_path):
    bg = np.full((20, 40, 3), 51, np.uint8)  # the stub's depth: 2 m
    img = bg.copy()
    img[8:16, 10:20] = 153  # new
    measured = np.full((10, 20), 3.0, np.float32)  # a depth camera of half the resolution
    measured[0, 0] = 0  # and with a hole
    Image.fromarray((measured * 1000).astype(np.uint16)).save(tmp_path / "empty.png")
    camera = Camera(Stub(), bg)
    camera.calibrate((30, 10, 30.0))
    camera.anchor(load_depth(tmp_path / "empty.png"))  # the later call counts
    mask_pred, depth_pred = camera(img)
    new = mask_pred > 0.5
    assert depth_pred.dtype == np.float32 and new.any()
    hole = np.zeros_like(new)
    hole[:2, :2] = True
    np.testing.assert_allclose(depth_pred[~new & ~hole], 0.3, rtol=1e-3)
    np.testing.assert_allclose(depth_pred[hole], 0.2, rtol=1e-3)
    assert depth_pred[new].max() <= 0.3 + 1e-6  # nothing is behind what it hides
    camera.calibrate((30, 10, 4.0))  # the later call counts
    np.testing.assert_allclose(camera(bg)[1], 0.4, rtol=0.1)


def test_so_many_points_are_a_map():
    camera = Camera(Stub(), np.full((20, 40, 3), 51, np.uint8))
    points = [(i % 40, i // 40, 3.0) for i in range(101)]
    camera.calibrate(*points[:100])
    with pytest.raises(ValueError, match="101 points came, needed up to 100.* to anchor"):
        camera.calibrate(*points)


def test_a_refused_calibration_leaves_the_one_before():
    bg = np.full((20, 40, 3), 51, np.uint8)
    bg[:, :5] = 0
    camera = Camera(Stub(), bg)
    camera.calibrate((10, 10, 4.0))
    before = camera.depth()
    with pytest.raises(ValueError, match="clipped"):
        camera.calibrate((0, 0, 4.0))
    np.testing.assert_array_equal(camera.depth(), before)


def test_a_camera_that_moved_is_calibrated_where_its_empty_scene_was_taken():
    bg = np.array(Image.fromarray(noise(12, 18)).resize((180, 120), Image.Resampling.BICUBIC))
    camera = Camera(Stub(), bg, align=True)
    camera.calibrate((90, 60, 4.0))
    before = camera.depth()
    camera(np.roll(bg, 9, axis=1))
    camera.calibrate((90, 60, 4.0))
    np.testing.assert_array_equal(camera.depth(), before)


def test_a_network_is_told_means_of_what_is_known_in_each_of_its_pixels(monkeypatch):
    told = []
    predict = unet.predict
    monkeypatch.setattr(unet, "predict", lambda *a: told.append(a[4]) or predict(*a))
    camera = Camera(unet.Small(), noise(40, 80), long_side=40)
    camera(noise(40, 80))
    metres = np.full((40, 80), 2.0, np.float32)
    metres[:, 1::2] = 4.0
    metres[:, 60:] = 10.0
    metres[:2, :2] = 0, -1
    metres[2, 2] = np.nan
    camera.anchor(metres)
    camera(noise(40, 80))
    nothing, known = told
    assert nothing is None and known.shape == (1, 1, 20, 40)
    expected = torch.full((20, 40), 0.3)
    expected[:, 30:] = 1.0
    expected[0, 0] = 0  # not known
    expected[1, 1] = (0.4 + 0.2 + 0.4) / 3
    torch.testing.assert_close(known[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_what_reaches_beyond_the_network_is_told_in_a_smaller_measure(monkeypatch):
    seen = []

    class Told(Stub):
        takes_depth = True

        def encode(self, bg):
            return {}

        def forward(self, bg, fg_bg, bg_features, bg_depth=None):
            seen.append(bg_depth)
            logits = super().forward(bg.expand_as(fg_bg), fg_bg)
            return logits | {"depth_logits": torch.full_like(logits["mask_logits"], 0.5).logit()}

    bg = np.full((40, 60, 3), 100, np.uint8)
    img = bg.copy()
    img[10:20, 10:20] = 250
    camera = Camera(Told(), bg)
    metres = np.full((40, 60), 40, np.float32)
    metres[0, 0] = 65  # one pixel is no measure
    camera.anchor(metres)
    mask_pred, depth_pred = camera(img)
    assert seen[0].unique().tolist() == [1.0]  # 40 m
    assert depth_pred[30, 30] == pytest.approx(4.0)
    new = mask_pred > 0.5
    assert new.any() and depth_pred[new] == pytest.approx(2.0)  # the network's half of 40 m


def test_a_camera_that_may_have_moved_compares_with_the_empty_scene_from_where_it_is():
    bg = np.array(Image.fromarray(noise(12, 18)).resize((180, 120), Image.Resampling.BICUBIC))
    img = bg.copy()
    img[:, 5:] = bg[:, :-5]
    img[40:80, 60:90] = 255
    mask_pred, _ = predict_pair(Stub(), bg, img, align=True)
    assert mask_pred[40:80, 60:90].mean() > 0.8
    mask_pred[38:82, 58:92] = 0
    assert mask_pred.mean() < 0.001
    assert predict_pair(Stub(), bg, img)[0][90:].mean() > 0.01  # without
    with pytest.warns(UserWarning, match="the camera is taken to be where it was"):
        maps = predict_pair(Stub(), bg, np.ascontiguousarray(bg[::-1]), align=True)
    np.testing.assert_array_equal(maps, predict_pair(Stub(), bg, bg[::-1].copy()))


def test_where_the_camera_is_cannot_be_told_it_is_where_it_was_last():
    bg = np.array(Image.fromarray(noise(12, 18)).resize((180, 120), Image.Resampling.BICUBIC))
    img = np.concatenate([bg[:, :10], bg[:, :-10]], 1)
    camera = Camera(Stub(), bg, align=True)
    camera(img)
    hidden = np.full_like(bg, 40)
    hidden[:, 110:] = img[:, 110:]
    with pytest.warns(UserWarning, match="where it was"):
        mask_pred, _ = camera(hidden)
    assert mask_pred[:, 112:].max() < 0.5


def test_the_measured_depth_of_the_empty_scene_moves_with_it():
    bg = np.array(Image.fromarray(noise(12, 18)).resize((180, 120), Image.Resampling.BICUBIC))
    img = np.concatenate([bg[:, :10], bg[:, :-10]], 1)
    camera = Camera(Stub(), bg, align=True)
    metres = np.full((120, 180), 2, np.float32)
    metres[:, 90:] = 4
    camera.anchor(metres)
    depth = camera(img)[1]
    assert np.median(depth[:, 92:98]) == pytest.approx(0.2, rel=0.01)
    assert np.median(depth[:, 110:]) == pytest.approx(0.4, rel=0.01)


def test_the_empty_scene_follows_the_light_but_nothing_new_and_no_shadow_that_passes():
    model, bg = Stub(), np.full((40, 60, 3), 100, np.uint8)
    camera = Camera(model, bg, refresh=8)
    for step in range(1, 161):  # half a grey value a frame: the stub would call 64 more new
        frame = np.full_like(bg, round(100 + step / 2))
        frame[10:20, 10:20] = 250
        if step % 5 == 0:
            frame[30:, 30:] //= 2
        mask_pred, _ = camera(frame)
    empty = 255 * model.seen[0][0, 0].numpy()
    smaller = np.ascontiguousarray(frame[::2, ::2])
    with pytest.warns(UserWarning, match="bg is scaled"):
        assert camera(smaller)[0][12:, :12].max() < 0.5  # what it followed is not forgotten
    assert mask_pred[12:18, 12:18].min() > 0.5 > mask_pred[25:].max()
    assert 170 <= empty[25, 5] < 180  # behind by some frames
    assert abs(empty[35, 50] - empty[25, 5]) <= 1
    assert (empty[10:20, 10:20] == 100).all()
    assert Camera(model, bg)(frame)[0][22:28].min() > 0.5
    with pytest.raises(ValueError, match="only a camera that stands still"):
        Camera(model, bg, refresh=8, align=True)


def test_a_scene_that_does_not_follow_is_encoded_once_and_one_that_does_eight_times_a_while(
    monkeypatch,
):
    model, frame = recipes.build("small").eval(), noise(40, 60)
    encoded, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda x: encoded.append(len(x)) or encode(x))
    for refresh, times in ((0, 1), (16, 17)):
        encoded.clear()
        camera = Camera(model, frame, refresh=refresh)
        for _ in range(32):
            camera(frame)
        assert len(encoded) == times


def test_a_depth_map_comes_back_as_it_was_written(tmp_path):
    mask_pred = np.zeros((4, 6), np.float32)
    depth_pred = np.linspace(0, 1.2, 24, dtype=np.float32).reshape(4, 6)
    path = write_prediction(tmp_path, mask_pred, depth_pred)[1]
    np.testing.assert_allclose(load_depth(path), depth_pred * 10, atol=0.0006)


def test_depth_maps_that_cannot_be_right_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no picture at .*none.png: give the path"):
        load_depth(tmp_path / "none.png")
    Image.fromarray(noise(4, 4)).save(tmp_path / "colour.png")
    (tmp_path / "text.png").write_bytes(b"no picture")
    for name in ("colour.png", "text.png"):
        with pytest.raises(ValueError, match="one channel of 16 bits, in millimetres"):
            load_depth(tmp_path / name)
    camera = Camera(Stub(), noise(20, 40))
    for depth, message in [
        (np.ones((20, 20)), "bg_depth is 20x20 .* the proportions differ"),
        (np.zeros((20, 40)), "less than 5 % of bg_depth is known"),
        (np.full((20, 40), np.nan), "less than 5 %"),
        (np.ones((20, 40, 3)), r"is \(20, 40, 3\), needed \(H, W\) in metres"),
    ]:
        with pytest.raises(ValueError, match=message):
            camera.anchor(depth)
    assert camera.bg_depth is None


def test_a_calibrated_camera_is_not_clipped_at_ten_metres(tmp_path):
    bg = np.full((20, 20, 3), 153, np.uint8)  # 6 m
    camera = Camera(Stub(), bg)
    camera.calibrate((0, 0, 24.0))
    depth = Image.open(write_prediction(tmp_path, *camera(bg))[1])
    np.testing.assert_allclose(np.asarray(depth)[0, 0], 24_000, rtol=0.02)


# writing


def test_a_cutout_holds_the_new_pixels_and_no_hidden_colours(tmp_path):
    mask_pred, img = np.array([[0.2, 0.9]], np.float32), np.full((1, 2, 3), 7, np.uint8)
    path = write_prediction(tmp_path, mask_pred, mask_pred, img=img, name="a")[-1]
    assert path == tmp_path / "cutout" / "a.png"
    with Image.open(path) as picture:
        assert picture.mode == "RGBA"
        assert np.asarray(picture).tolist() == [[[0, 0, 0, 0], [7, 7, 7, 255]]]


def test_written_files_hold_what_was_predicted(tmp_path):
    mask_pred = np.array([[0.0, 0.5, 0.51, 1.0]], np.float32)
    depth_pred = np.array([[-0.1, 0.1234, 0.5, 1.1]], np.float32)
    paths = write_prediction(tmp_path / "new" / "out", mask_pred, depth_pred)
    assert [p.name for p in paths] == ["mask.png", "depth.png", "depth_colour.png"]
    mask, depth, colour = (np.asarray(Image.open(path)) for path in paths)
    assert (mask.dtype, mask.tolist()) == (np.uint8, [[0, 0, 255, 255]])
    assert depth.astype(int).tolist() == [[0, 1234, 5000, 11_000]]  # millimetres
    assert paths[1].read_bytes()[24] == 16  # IHDR: bit depth
    assert colour.shape == (1, 4, 3)
    for pixel, value in zip(colour[0], depth_pred[0], strict=True):
        np.testing.assert_allclose(pixel / 255, colormaps["viridis"](float(value))[:3], atol=0.01)
    # written anew: colours do not hang on the farthest point
    write_prediction(tmp_path / "new" / "out", mask_pred[:, :3], depth_pred[:, :3])
    assert np.asarray(Image.open(paths[0])).tolist() == [[0, 0, 255]]
    np.testing.assert_array_equal(np.asarray(Image.open(paths[2])), colour[:, :3])


def test_only_the_kinds_that_were_asked_for_are_written(tmp_path):
    maps = np.zeros((4, 6)), np.zeros((4, 6))
    paths = write_prediction(tmp_path, *maps, kinds=("depth", "mask"), img=noise(4, 6))
    assert [path.name for path in paths] == ["depth.png", "mask.png"]
    assert len([*tmp_path.iterdir()]) == 2
    with pytest.raises(ValueError, match="colour came, needed one or more of mask, depth"):
        write_prediction(tmp_path, *maps, kinds=("mask", "colour"))


def test_writing_refuses_a_file_as_folder_and_broken_maps(tmp_path):
    good = np.zeros((2, 2), np.float32)
    (tmp_path / "file").touch()
    for name in ("", "a"):
        with pytest.raises(ValueError, match="file is a file, needed a folder: name another one"):
            write_prediction(tmp_path / "file", good, good, name=name)
    with pytest.raises(ValueError, match="nan or inf"):
        write_prediction(tmp_path, good, good * np.nan)
    assert not (tmp_path / "mask.png").exists()
