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
    film = footage.read(video)
    names, pictures = zip(*film.frames, strict=True)
    assert (names, film.fps, film.n) == (tuple(f"{i:06d}" for i in range(5)), 10, 5)
    assert [p.shape for p in pictures] == [(32, 48, 3)] * 5
    np.testing.assert_allclose([p.mean() for p in pictures], range(0, 250, 50), atol=6)


def test_every_nth_frame_keeps_its_number_and_slows_the_overlay_alike(video):
    film = footage.read(str(video), every=2)
    names = [name for name, _ in film.frames]
    assert (names, film.fps, film.n) == (["000000", "000002", "000004"], 5, 3)
    with pytest.raises(ValueError, match="every is 0, needed 1 or more"):
        footage.read(video, every=0)


def test_an_overlay_tints_what_is_new_and_does_not_swap_red_and_blue(tmp_path):
    img, mask = np.full((32, 64, 3), 100, np.uint8), np.zeros((32, 64), np.float32)
    mask[:, 32:] = 1
    with footage.overlay(tmp_path / "o.mp4", 10) as show:
        show(img, mask)
        show(img[::2, ::2], mask[::2, ::2])  # another size
    (_, first), (_, second) = footage.read(tmp_path / "o.mp4").frames
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
        frames = [*footage.read(tmp_path).frames]
    assert [name for name, _ in frames] == ["a", "a.jpg", "b", "c"]  # none overwrites another
    assert all(np.abs(photo.astype(int) - RED).max() < 12 for _, photo in frames)


def test_a_picture_whatever_it_is_called_is_not_opened_as_a_video(tmp_path, monkeypatch):
    monkeypatch.setattr(footage, "_video", lambda *_: pytest.fail("opened as a video"))
    Image.new("RGB", (8, 6), RED).save(tmp_path / "photo.mp4", "PNG")
    assert next(footage.read(tmp_path / "photo.mp4").frames)[0] == ""
    (tmp_path / "cut.png").write_bytes((tmp_path / "photo.mp4").read_bytes()[:45])
    with pytest.raises(ValueError, match="cannot read .*cut.png"):
        footage.read(tmp_path / "cut.png")


def test_what_cannot_be_read_or_written_is_named(tmp_path, capfd):
    (tmp_path / "text.mp4").write_bytes(b"no video")
    with pytest.raises(FileNotFoundError, match="there is no nowhere.mp4, needed a picture, a"):
        footage.read("nowhere.mp4")
    with pytest.raises(ValueError, match="no frame comes from .*text.mp4, needed a picture, a"):
        next(footage.read(tmp_path / "text.mp4").frames)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no readable picture in .*empty, needed photos"):
        next(footage.read(tmp_path / "empty").frames)
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


def test_the_median_of_a_film_is_what_each_pixel_mostly_shows(tmp_path):
    empty = np.random.default_rng(0).integers(0, 256, (20, 90, 3), dtype=np.uint8)
    for i in range(9):  # something red crosses the picture, never twice at one place
        frame = empty.copy()
        frame[:, 10 * i : 10 * i + 10] = RED
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    np.testing.assert_array_equal(footage.median(tmp_path), empty)


@pytest.mark.parametrize("n", [63, 64, 200])
def test_a_median_keeps_few_frames_and_they_are_spread_over_the_whole_film(n, monkeypatch):
    shown = [("", np.full((1, 1, 3), i, np.uint8)) for i in range(n)]
    monkeypatch.setattr(footage, "read", lambda source: footage.Film(iter(shown), 25.0, n))
    kept = []
    partition = np.partition
    monkeypatch.setattr(
        np, "partition", lambda x, k, axis: kept.append(len(x)) or partition(x, k, axis=axis)
    )
    assert abs(footage.median("film.mp4")[0, 0, 0] - n / 2) <= 0.02 * n + 1
    assert len(kept) == 1 and 31 <= kept[0] < 64


def test_every_nth_picture_of_a_folder_slows_its_overlay_alike(tmp_path):
    for i in range(4):
        Image.new("RGB", (8, 6), RED).save(tmp_path / f"{i}.png")
    film = footage.read(tmp_path, every=2)
    assert (film.fps, film.n, film.timed) == (footage.FPS / 2, 2, False)


def test_a_folder_whose_name_is_a_number_is_no_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "20240101").mkdir()
    for i in range(3):
        Image.new("RGB", (8, 6), RED).save(tmp_path / "20240101" / f"{i}.png")
    assert (footage.median("20240101") == RED).all()


def test_a_median_of_large_frames_keeps_fewer(monkeypatch):
    monkeypatch.setattr(footage, "KEPT_BYTES", 100)
    shown = [("", np.full((2, 2, 3), i, np.uint8)) for i in range(100)]
    monkeypatch.setattr(footage, "read", lambda source: footage.Film(iter(shown), 25.0, 100))
    kept = []
    partition = np.partition
    monkeypatch.setattr(
        np, "partition", lambda x, k, axis: kept.append(len(x)) or partition(x, k, axis=axis)
    )
    assert abs(footage.median("film.mp4").mean() - 50) < 15 and max(kept) < 9


def test_a_median_that_means_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 is a camera, needed a film or a folder that ends"):
        footage.median("0")
    for i, size in enumerate([(8, 6), (8, 6), (6, 8)]):
        Image.new("RGB", size).save(tmp_path / f"{i}.png")
    with pytest.raises(
        ValueError, match=r"3 frames, .* \(6, 8, 3\), \(8, 6, 3\); needed 3 or more"
    ):
        footage.median(tmp_path)
    (tmp_path / "2.png").unlink()
    with pytest.raises(ValueError, match="has 2 frames"):
        footage.median(tmp_path)
