"""A camera that was moved: the motion is found, or it is said that it cannot be."""

import cv2
import numpy as np
import pytest

from evalib.camera import align


@pytest.fixture(scope="module")
def wall():
    """A wall of 240x320 with many pictures, seen by a camera that can be moved 40 pixels."""
    rng = np.random.default_rng(0)
    photo = np.full((320, 400, 3), 150, np.uint8)
    for _ in range(120):
        x, y = (int(v) for v in rng.integers(0, (400, 320)))
        w, h = (int(v) for v in rng.integers(6, 40, 2))
        colour = [int(v) for v in rng.integers(0, 256, 3)]
        cv2.rectangle(photo, (x, y), (x + w, y + h), colour, -1)
    return cv2.GaussianBlur(photo, (0, 0), 1)


def shot(wall, motion):
    """What a camera sees after `motion`, a homography of pixels about the middle of its picture."""
    middle = np.array([[1, 0, -199.5], [0, 1, -159.5], [0, 0, 1]])
    matrix = np.linalg.inv(middle) @ motion @ middle
    seen = cv2.warpPerspective(wall, matrix, (400, 320), flags=cv2.INTER_CUBIC)
    return np.ascontiguousarray(seen[40:-40, 40:-40])


def similarity(shift, degrees, zoom):
    c, s = zoom * np.cos(np.deg2rad(degrees)), zoom * np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, shift[0]], [s, c, shift[1]], [0, 0, 1]])


TILT = np.array([[1, 0, 3], [0, 1, -2], [2e-4, -1e-4, 1]])
MOTIONS = [similarity((6, -4), 1, 1.01), similarity((-5, 0), -1, 0.98), TILT]


def found(bg, img):
    return align.motion(align.points(bg), align.points(img), bg.shape[:2])


def corners(motion):
    """Where it takes the corners of 320x240 pixels."""
    points = np.array([[[0, 0], [319, 0], [0, 239], [319, 239]]], float)
    return cv2.perspectiveTransform(points, motion)[0]


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_motion_is_found_to_half_a_pixel_beside_something_new_and_in_other_light(wall, motion):
    bg, img = shot(wall, np.eye(3)), shot(wall, motion)
    img[100:220, 40:120] = np.random.default_rng(1).integers(0, 256, (120, 80, 3))  # it has points
    img = (0.8 * img + 10).astype(np.uint8)
    middle = np.array([[1, 0, -159.5], [0, 1, -119.5], [0, 0, 1]])
    truth = np.linalg.inv(middle) @ motion @ middle
    assert np.abs(corners(found(bg, img)) - corners(truth)).max() < 0.5


def test_large_photographs_are_looked_at_small_and_the_motion_is_that_of_their_pixels(
    wall, monkeypatch
):
    bg, img = shot(wall, np.eye(3)), shot(wall, MOTIONS[0])
    whole = corners(found(bg, img))
    monkeypatch.setattr(align, "LONG_SIDE", 200)
    assert np.abs(corners(found(bg, img)) - whole).max() < 0.7


def test_an_aligned_scene_is_the_second_shot_where_nothing_is_new_and_outside_of_the_first(wall):
    bg, img = shot(wall, np.eye(3)), shot(wall, MOTIONS[0])
    before = np.abs(bg.astype(int) - img).mean()
    difference = np.abs(align.aligned(bg, img).astype(int) - img)
    assert difference.mean() < 0.1 * before
    assert not difference[:, :2].any()  # the first shot does not reach there


def test_shots_of_different_rooms_and_plain_walls_are_refused(wall):
    bg = shot(wall, np.eye(3))
    for img in (bg[::-1, ::-1].copy(), np.full_like(bg, 128)):
        with pytest.raises(ValueError, match="points of both photographs agree .*, needed 12"):
            align.aligned(bg, img)
    with pytest.raises(ValueError, match="needed one size"):
        align.aligned(bg, bg[:-1])
    strip = bg[:1]
    with pytest.raises(ValueError, match="0 points of both"):
        align.aligned(strip, strip)


def test_a_thing_that_was_moved_is_no_camera_that_was(wall):
    """As many points of the thing as of the rest of the room, or no rest at all."""
    thing = shot(wall, np.eye(3))[60:180, 80:200]
    for room in (shot(wall, np.eye(3))[::-1, ::-1].copy(), np.full((240, 320, 3), 150, np.uint8)):
        bg, img = room.copy(), room.copy()
        bg[70:190, 20:140] = thing
        img[70:190, 60:180] = thing
        if room.std():
            np.testing.assert_allclose(corners(found(bg, img)), corners(np.eye(3)), atol=0.1)
            continue
        with pytest.raises(ValueError, match="tell too little of the whole picture"):
            found(bg, img)


def test_points_in_a_corner_do_not_tell_of_a_tilt(wall):
    chance = np.random.default_rng(0)
    bg = np.full((240, 320, 3), 150, np.uint8)
    bg[20:100, 20:110] = shot(wall, np.eye(3))[20:100, 20:110]
    for _ in range(5):
        first, second = (
            np.clip(bg + chance.normal(0, 8, bg.shape), 0, 255).astype(np.uint8) for _ in range(2)
        )
        try:
            assert np.abs(corners(found(first, second)) - corners(np.eye(3))).max() < 3
        except ValueError as error:
            assert "points" in str(error)


def test_a_map_is_moved_by_the_nearest_pixel_and_is_unknown_outside():
    depth = np.zeros((20, 30), np.float32)
    depth[:, 15:] = 2
    there = align.moved(depth, similarity((5.4, 0), 0, 1), np.float32(0))
    assert set(np.unique(there)) == {0, 2} and (there[:, 21:] == 2).all()
    back = align.moved(depth, similarity((-5.4, 0), 0, 1), np.float32(0))
    assert not back[:, -5:].any() and (back[:, 12:24] == 2).all()
