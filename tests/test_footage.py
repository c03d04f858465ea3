"""Folders and videos as people have them: every frame once, in order, or a sentence why not."""

import numpy as np
import pytest
from PIL import Image

from evalib.camera import footage

RED = (200, 30, 30)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Five frames of 32x48, grey 0, 50 ... 200, written by `overlay`."""
    path = tmp_path_factory.mktemp("video") / "grey.mp4"
    with footage.overlay(path, 10) as show:
        for grey in range(0, 250, 50):
            show(np.full((32, 48, 3), grey, np.uint8), np.zeros((32, 48), np.float32))
    return path


def test_a_video_gives_every_frame_once_in_order_and_in_colour(video):
    frames, fps = footage.read(video)
    names, pictures = zip(*frames, strict=True)
    assert (names, fps) == (tuple(f"{i:06d}" for i in range(5)), 10)
    assert [p.shape for p in pictures] == [(32, 48, 3)] * 5
    np.testing.assert_allclose([p.mean() for p in pictures], range(0, 250, 50), atol=6)


def test_every_nth_frame_keeps_its_number_and_slows_the_overlay_alike(video):
    frames, fps = footage.read(str(video), every=2)
    assert ([name for name, _ in frames], fps) == (["000000", "000002", "000004"], 5)
    with pytest.raises(ValueError, match="every is 0, needed 1 or more"):
        footage.read(video, every=0)


def test_an_overlay_tints_what_is_new_and_does_not_swap_red_and_blue(tmp_path):
    img, mask = np.full((32, 64, 3), 100, np.uint8), np.zeros((32, 64), np.float32)
    mask[:, 32:] = 1
    with footage.overlay(tmp_path / "o.mp4", 10) as show:
        show(img, mask)
        show(img[::2, ::2], mask[::2, ::2])  # another size
    (_, first), (_, second) = footage.read(tmp_path / "o.mp4")[0]
    assert first.shape == second.shape == (32, 64, 3)
    np.testing.assert_allclose(first[:, :24].mean((0, 1)), 100, atol=8)
    np.testing.assert_allclose(first[:, 40:].mean((0, 1)), (100 + footage.TINT) / 2, atol=12)


def test_a_folder_is_sorted_mixed_and_goes_on_past_what_cannot_be_read(tmp_path):
    for name in ("c.png", "a.jpg", "b.webp", "a.bmp"):
        Image.new("RGB", (8, 6), RED).save(tmp_path / name)
    (tmp_path / "bb.jpg").write_bytes(b"no picture")
    (tmp_path / ".hidden").touch()
    (tmp_path / "folder.jpg").mkdir()
    with pytest.warns(UserWarning, match=r"skipped: cannot read .*bb.jpg"):
        frames = [*footage.read(tmp_path)[0]]
    assert [name for name, _ in frames] == ["a", "a.jpg", "b", "c"]  # none overwrites another
    assert all(np.abs(photo.astype(int) - RED).max() < 12 for _, photo in frames)


def test_a_picture_whatever_it_is_called_is_not_opened_as_a_video(tmp_path, monkeypatch):
    monkeypatch.setattr(footage, "_video", lambda *_: pytest.fail("opened as a video"))
    Image.new("RGB", (8, 6), RED).save(tmp_path / "photo.mp4", "PNG")
    assert next(footage.read(tmp_path / "photo.mp4")[0])[0] == ""
    (tmp_path / "cut.png").write_bytes((tmp_path / "photo.mp4").read_bytes()[:45])
    with pytest.raises(ValueError, match="cannot read .*cut.png"):
        footage.read(tmp_path / "cut.png")


def test_what_cannot_be_read_or_written_is_named(tmp_path, capfd):
    (tmp_path / "text.mp4").write_bytes(b"no video")
    with pytest.raises(FileNotFoundError, match="there is no nowhere.mp4, needed a picture, a"):
        footage.read("nowhere.mp4")
    with pytest.raises(ValueError, match="no frame comes from .*text.mp4, needed a picture, a"):
        next(footage.read(tmp_path / "text.mp4")[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no readable picture in .*empty, needed photos"):
        next(footage.read(tmp_path / "empty")[0])
    with (
        pytest.raises(ValueError, match="needed NAME.mp4 in an existing folder"),
        footage.overlay(tmp_path / "no" / "o.mp4", 10) as show,
    ):
        show(np.zeros((16, 16, 3), np.uint8), np.zeros((16, 16), np.float32))


def test_a_number_and_an_address_go_to_opencv_as_cameras(monkeypatch):
    opened = []
    monkeypatch.setattr(footage, "_video", lambda source, every: opened.append(source))
    footage.read("0")
    footage.read("rtsp://camera/stream")
    assert opened == ["0", "rtsp://camera/stream"]
