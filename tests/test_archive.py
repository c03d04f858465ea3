import io
from dataclasses import replace

import numpy as np
import pytest
from archive_fixtures import FOLDERS, SIZE, depth, encoded, mask, picture, serial_of
from PIL import Image

from evalib.sources import layouts
from evalib.sources.archive import load_image, misplaced, polarity

LAYOUT = layouts.folders(FOLDERS)


def saved(array, form="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **options)
    return file.getvalue()


def random(*shape):
    return np.random.Generator(np.random.Philox(1)).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "WEBP"])
def test_bytes_tell_what_a_picture_is(form):
    image = load_image(encoded(picture(9), form), "fg_bg", 16, LAYOUT)
    assert image.shape == (16, 16, 3) and image.dtype == np.uint8
    assert serial_of("fg_bg", image) == 9


@pytest.mark.parametrize("form", ["PPM", "ICO", "EPS"])
def test_no_other_decoder_is_tried(form):
    with pytest.raises(ValueError, match="cannot read the picture of"):
        load_image(encoded(picture(9), form), "fg_bg", 16, LAYOUT)


@pytest.mark.parametrize("kind", ["fg_bg", "mask", "depth"])
@pytest.mark.parametrize("data", [b"", b"<html>", b"PK\3\4", encoded(picture(1))[:200]])
def test_broken_bytes_are_one_kind_of_error(kind, data):
    with pytest.raises(ValueError, match="cannot read the picture of"):
        load_image(data, kind, 16, LAYOUT)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_every_truncation_is_an_error(form):
    data = saved(random(40, 40, 3), form)
    for end in range(0, len(data) - 64, 101):
        with pytest.raises(ValueError, match="cannot read the picture of"):
            load_image(data[:end], "fg_bg", 16, LAYOUT)


def test_a_picture_that_is_large_only_when_it_is_unpacked_is_refused():
    data = encoded(Image.new("1", (10_000, 10_000)), "PNG")
    assert len(data) < 100_000
    with pytest.raises(ValueError, match="exceeds limit of 89478485 pixels"):
        load_image(data, "mask", 16, LAYOUT)


@pytest.mark.parametrize("kind", ["bg", "fg_bg", "depth", "mask"])
def test_every_kind_is_turned_upright(kind):
    upright = np.zeros((32, 32), np.uint8)
    upright[:16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    lying = np.rot90(upright)
    image = load_image(saved(lying, "JPEG", quality=95, exif=exif), kind, 32, LAYOUT)
    assert image[:14].min() > 240 and image[18:].max() < 15


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK"])
def test_every_mode_of_white_is_white(mode):
    image = Image.new("L", (20, 20), 255).convert("RGB").convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
    for kind in ("fg_bg", "mask", "depth"):
        assert load_image(data, kind, 16, LAYOUT).min() == 255


def test_what_is_transparent_is_white_but_not_new():
    array = np.full((16, 16, 4), 255, np.uint8)
    array[:8, :, 3] = 0
    assert load_image(saved(array), "mask", 16, LAYOUT)[:8].max() == 0
    assert load_image(saved(array // 255 * 7), "fg_bg", 16, LAYOUT)[:8].min() == 255


def test_sixteen_bits_are_scaled_by_the_whole_range():
    ramp = np.repeat(np.arange(256, dtype=np.uint16)[:, None] * 257, 256, axis=1)
    assert np.array_equal(load_image(saved(ramp), "depth", 256, LAYOUT)[:, 0], np.arange(256))
    assert load_image(saved(ramp // 8), "depth", 256, LAYOUT).max() == 32  # not stretched


def test_a_mask_of_zeros_and_ones_is_not_empty():
    array = (np.asarray(mask(9)) > 0).astype(np.uint8)
    assert np.array_equal(load_image(saved(array), "mask", SIZE, LAYOUT), np.asarray(mask(9)))


def test_a_mask_is_set_where_more_than_half_of_the_area_is():
    array = np.zeros((64, 64), np.uint8)
    array[:, :9] = 255  # cells of 4: two whole ones and a quarter
    array[:, 32:34] = 255  # a half, and
    array[:2, 34] = 255  # an eighth
    jpeg = saved(array, "JPEG", quality=95)
    for data, threshold in ((saved(array), 127), (jpeg, 127), (jpeg, 149)):
        columns = load_image(data, "mask", 16, replace(LAYOUT, threshold=threshold))[0]
        assert np.flatnonzero(columns).tolist() == [0, 1, 8]
        assert set(columns) == {0, 255}


def test_a_grey_veil_around_a_jpeg_mask_adds_nothing():
    array = np.full((64, 64), 100, np.uint8)
    array[:32] = 160
    data = saved(array, "JPEG", quality=95)
    assert load_image(data, "mask", 64, LAYOUT)[:31].min() == 255
    assert load_image(data, "mask", 64, LAYOUT)[33:].max() == 0
    assert load_image(data, "mask", 16, replace(LAYOUT, threshold=170)).max() == 0


def test_shrinking_keeps_the_mean_and_squeezes_what_is_not_square():
    array = random(96, 48, 3)
    image = load_image(saved(array), "fg_bg", 24, LAYOUT)
    mean = array.reshape(24, 4, 24, 2, 3).mean(axis=(1, 3))
    assert np.abs(image - mean).max() <= 1


def test_a_jpeg_decoded_smaller_looks_as_if_it_was_shrunk():
    ramp = np.repeat(np.linspace(0, 255, 224, dtype=np.uint8)[:, None], 224, axis=1)
    small = load_image(saved(ramp, "JPEG", quality=95), "depth", 64, LAYOUT).astype(int)
    whole = load_image(saved(ramp), "depth", 64, LAYOUT)
    assert np.abs(small - whole).max() <= 2


def test_enlarging_is_smooth():
    array = np.array([[0, 255], [0, 255]], np.uint8)
    assert len(np.unique(load_image(saved(array), "depth", 32, LAYOUT))) > 8


def test_depth_of_three_equal_channels_is_one_channel():
    data = encoded(depth(3).convert("RGB"))
    assert serial_of("depth", load_image(data, "depth", SIZE, LAYOUT)) == 3


def test_depth_in_colours_is_refused_unless_the_layout_knows():
    from matplotlib import colormaps

    coloured = (colormaps["plasma"](np.asarray(depth(3)))[..., :3] * 255).astype(np.uint8)
    for form in ("PNG", "JPEG"):
        with pytest.raises(ValueError, match="depth in colours; needed: one channel"):
            load_image(saved(coloured, form), "depth", SIZE, LAYOUT)
    image = load_image(saved(coloured), "depth", SIZE, replace(LAYOUT, colour=True))
    far, near = image[9, 31], image[30, 31]
    assert far > near + 50


def test_near_bright_is_inverted():
    data = encoded(depth(3).point(lambda grey: 255 - grey), "PNG")
    image = load_image(data, "depth", SIZE, replace(LAYOUT, polarity="near_bright"))
    assert np.array_equal(image, np.asarray(depth(3)))


def many():
    depths = np.stack([depth(i) for i in range(32)])
    return depths, np.stack([mask(i) for i in range(32)])


def test_polarity_is_seen_in_the_pictures():
    depths, masks = many()
    verdict, inside, bottom = polarity(depths, masks)
    assert verdict == "near_dark" and bottom < -100
    verdict, inside_inverted, bottom_inverted = polarity(255 - depths, masks)
    assert verdict == "near_bright"
    assert (inside_inverted, bottom_inverted) == pytest.approx((-inside, -bottom))


def test_objects_alone_tell_the_polarity():
    _, masks = many()
    assert polarity(200 - masks // 2, masks)[0] == "near_dark"


def test_empty_masks_leave_the_vote_to_the_ground():
    depths, masks = many()
    verdict, inside, _ = polarity(depths, np.zeros_like(masks))
    assert (verdict, inside) == ("near_dark", 0)


@pytest.mark.parametrize("depths", [random(50, 16, 16), np.full((50, 16, 16), 40, np.uint8)])
def test_noise_and_constant_depth_are_unclear(depths):
    masks = np.zeros((50, 16, 16), np.uint8)
    masks[:, 4:12, 4:12] = 255
    assert polarity(depths, masks)[0] == "unclear"


def test_masks_of_other_samples_and_inverted_ones_are_found():
    bg = random(32, SIZE, SIZE, 3)
    _, masks = many()
    fg_bg = np.where(masks[..., None] > 0, 255 - bg, bg)
    assert not misplaced(bg, fg_bg, masks).any()
    assert misplaced(bg, fg_bg, np.roll(masks, 1, axis=0)).all()
    assert misplaced(bg, fg_bg, 255 - masks).all()
    assert not misplaced(bg, fg_bg, np.zeros_like(masks)).any()
