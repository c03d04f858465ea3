import matplotlib

matplotlib.use("Agg")

import base64
import importlib
import io
import sys

import pytest
from matplotlib.figure import Figure
from PIL import Image

from evalib import recipes, widgets


def jpeg(level):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (level,) * 3).save(buffer, format="JPEG")
    return buffer.getvalue()


def data_url(level):
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(level)).decode()


@pytest.fixture(scope="module")
def model():
    return recipes.build("small").eval()


@pytest.fixture
def output():
    """Colab's module of the JavaScript bridge; while a test has it, evalib is on Colab."""
    yield importlib.import_module("google.colab.output")
    for name in [name for name in sys.modules if name.startswith("google.colab")]:
        del sys.modules[name]


def test_uploads_are_read_in_the_form_of_both_ipywidgets_versions():
    class Upload:
        def __init__(self, value):
            self.value = value

    assert widgets._uploaded(Upload(({"name": "a", "content": memoryview(b"8")},))) == b"8"
    assert widgets._uploaded(Upload({"a.jpg": {"metadata": {}, "content": b"7"}})) == b"7"
    assert widgets._uploaded(Upload(())) is None and widgets._uploaded(Upload({})) is None


@pytest.mark.filterwarnings("ignore:.* points of both photographs agree")
def test_two_uploaded_photos_are_predicted_and_a_broken_one_is_told(model, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(widgets, "display", shown.append)
    box = widgets.own_photos(model)
    empty, new = box.children[0].children
    monkeypatch.setattr(widgets, "_uploaded", lambda upload: upload.fake)
    empty.fake, new.fake = jpeg(10), None
    empty.notify_change({"name": "value", "type": "change", "owner": empty, "new": 0, "old": 1})
    assert not shown  # waits for the second photograph
    new.fake = jpeg(200)
    new.notify_change({"name": "value", "type": "change", "owner": new, "new": 0, "old": 1})
    assert len(shown) == 1
    new.fake = b"not a picture"
    new.notify_change({"name": "value", "type": "change", "owner": new, "new": 0, "old": 1})
    assert "cannot read the picture of" in capsys.readouterr().out and len(shown) == 1


def test_the_camera_gives_the_empty_scene_first(output):
    output.answer = {"photos": [data_url(10), data_url(200)]}
    bg, img = widgets.take_photos()
    assert bg.shape == img.shape == (48, 64, 3)
    assert abs(int(bg.mean()) - 10) < 3 and abs(int(img.mean()) - 200) < 3
    assert output.scripts == [widgets.TAKE_PHOTOS_JS]


@pytest.mark.filterwarnings("ignore:.* points of both photographs agree")
def test_on_colab_two_photos_of_the_camera_are_predicted(model, output):
    output.answer = {"photos": [data_url(10), data_url(200)]}
    assert isinstance(widgets.own_photos(model, camera=True), Figure)


def test_the_camera_is_not_asked_unless_it_is_wanted(model, output):
    assert widgets.own_photos(model).children and not output.scripts


NOT_PHOTOS = {
    "refused": ({"error": "NotAllowedError: Permission denied"}, "NotAllowedError"),
    "closed": (None, "no answer"),
    "one only": ({"photos": [data_url(9)]}, "no two photographs"),
    "a text": ("data:image/jpeg;base64,AAAA", "no two photographs"),
    "another type": ({"photos": ["data:text/html;base64,AAAA"] * 2}, "needed a JPEG"),
    "not base64": ({"photos": ["data:image/jpeg;base64,<script>"] * 2}, "needed a JPEG"),
    "not even text": ({"photos": [1, 2]}, "needed a JPEG"),
    "broken base64": ({"photos": ["data:image/jpeg;base64,AAAAA"] * 2}, "padding|base64"),
    "no picture": ({"photos": ["data:image/jpeg;base64,AAAA"] * 2}, "cannot read the picture of"),
}


@pytest.mark.parametrize(("answer", "reason"), NOT_PHOTOS.values(), ids=NOT_PHOTOS)
def test_without_two_photos_the_reason_is_said_and_the_buttons_are_there(
    model, output, capsys, answer, reason
):
    output.answer = answer
    with pytest.raises(ValueError, match=reason):
        widgets.take_photos()
    box = widgets.own_photos(model, camera=True)
    assert "or upload two photographs" in capsys.readouterr().out
    assert len(box.children[0].children) == 2


def test_outside_colab_the_camera_is_replaced_by_the_buttons(model, capsys):
    assert len(widgets.own_photos(model, camera=True).children[0].children) == 2
    assert "on Colab only" in capsys.readouterr().out


def test_the_sliders_ask_for_the_picture_of_their_values(monkeypatch):
    asked = []
    monkeypatch.setattr(widgets, "display", lambda figure: None)
    widgets.explorer(lambda sample, threshold: asked.append((sample, threshold)), 3)
    assert asked == [(0, 0.5)]
