"""Notebook 05 and TensorBoard in a real browser, as a person uses them: JupyterLab with the newest
ipywidgets, and the classic notebook with Colab's (7.7.1). `make browser` installs what this needs.

What the browser showed is kept in output/browser/, to be looked at.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from evalib import camera, rooms, widgets

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright: make browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
if not CHROMIUM:
    pytest.skip("no chromium on the PATH: apt install chromium", allow_module_level=True)

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "output" / "browser"
CLASSIC = Path(os.environ.get("EVALIB_CLASSIC", ROOT / ".venv-classic"), "bin", "python")
TIMEOUT_S = 300  # for all cells, on one busy core
LAB_SETTINGS = {  # all cells are in the page at once, and no question covers them
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false"},
}
A_RUN = """
from pathlib import Path
from types import SimpleNamespace
from evalib import runs

run_dir = Path("run").resolve()
run_dir.mkdir()
with runs.tensorboard(run_dir, [{"step": k, "loss": 2 / k} for k in range(1, 50)]):
    pass
colab = SimpleNamespace(on_colab=lambda: True, home=lambda: run_dir)
"""


class Lab:
    """How JupyterLab is started, and what its parts are called in the page."""

    command = [sys.executable, "-m", "jupyterlab"]
    url, cell, ready = "lab/tree", ".jp-CodeCell", "[data-status='idle']"
    error = "[data-mime-type='application/vnd.jupyter.error']"
    menu, entry = ".lm-MenuBar-item:has-text('Run')", "[data-command='runmenu:run-all']"


class Classic:
    """The same of the classic notebook."""

    command = [str(CLASSIC), "-m", "notebook"]
    url, cell, ready = "notebooks", ".code_cell", "#kernel_indicator_icon.kernel_idle_icon"
    error = ".output_error"
    menu, entry = "#menubar .dropdown-toggle:text-is('Cell')", "#run_all_cells"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        options = ["--no-sandbox", "--use-fake-device-for-media-stream"]
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    PICTURES.mkdir(parents=True, exist_ok=True)
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    page.set_default_timeout(60_000)
    yield page
    page.screenshot(path=PICTURES / "last.png")  # where a test failed
    page.close()


@pytest.fixture(params=[Lab, Classic], ids=["lab", "classic"])
def jupyter(request, tmp_path):
    """A server on this machine only, with its own settings and the notebooks without outputs."""
    ui = request.param
    if ui is Lab:
        pytest.importorskip("jupyterlab", reason="JupyterLab: make browser")
    elif not CLASSIC.exists():
        pytest.skip(f"no classic notebook in {CLASSIC.parents[1]}: make browser")
    for name, cells in {"05": stored("05"), "tensorboard": [A_RUN, tensorboard_cell()]}.items():
        code = [nbformat.v4.new_code_cell(source) for source in cells]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        notebook = nbformat.v4.new_notebook(cells=code, metadata=kernel)
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    for name, values in LAB_SETTINGS.items():
        path = tmp_path / ".jupyter" / "settings" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, folders = os.urandom(16).hex(), ("CONFIG", "DATA", "RUNTIME")
    env = os.environ | {"EVALIB_SMOKE": "1", "PYTHONPATH": str(ROOT)}
    env |= {f"JUPYTER_{name}_DIR": str(tmp_path / ".jupyter" / name.lower()) for name in folders}
    env["JUPYTERLAB_SETTINGS_DIR"] = str(tmp_path / ".jupyter" / "settings")
    env |= {"IPYTHONDIR": str(tmp_path / ".ipython"), "TMPDIR": str(tmp_path)}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    prefix = "ServerApp" if ui is Lab else "NotebookApp"
    options += [f"--{prefix}.token={token}", f"--{prefix}.port_retries=0"]
    with open(tmp_path / "server.log", "w") as log:
        server = subprocess.Popen(
            ui.command + options, cwd=tmp_path, env=env, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        address = f"http://127.0.0.1:{port}"
        answers(f"{address}/api?token={token}", tmp_path / "server.log")
        yield ui, f"{address}/{ui.url}/{{}}?token={token}"
    finally:
        server.terminate()  # and it ends its kernels
        server.wait(60)
        for path in tmp_path.glob(".tensorboard-info/pid-*.info"):  # it outlives its kernel
            with contextlib.suppress(ProcessLookupError):
                os.kill(json.loads(path.read_text(encoding="utf-8"))["pid"], signal.SIGTERM)


def stored(name):
    notebook = nbformat.read(next((ROOT / "notebooks").glob(f"{name}_*.ipynb")), 4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def tensorboard_cell():
    return next(source for source in stored("04") if '"tensorboard", f"--logdir' in source)


def answers(url, log):
    for _ in range(TIMEOUT_S):
        try:
            return urllib.request.urlopen(url, timeout=5).read()
        except OSError:
            time.sleep(1)
    raise AssertionError(log.read_text(encoding="utf-8")[-3000:])


def run_all(page, jupyter, name):
    ui, url = jupyter
    question = page.locator(".jp-Dialog").last
    page.add_locator_handler(question, lambda: answer(question))
    page.goto(url.format(f"{name}.ipynb"))
    page.wait_for_selector(ui.ready, timeout=120_000)
    prompts = page.locator(".jp-InputPrompt, .input_prompt")
    begun = prompts.filter(has_text=re.compile(r"\[[*\d]")).first
    done = prompts.filter(has_text=re.compile(r"\[\d")).first
    for _ in range(10):  # JupyterLab forgets what it is asked before its kernel is connected,
        page.click(ui.menu)
        page.click(ui.entry)
        with contextlib.suppress(playwright.TimeoutError):
            begun.wait_for(timeout=10_000)
            return done.wait_for(timeout=120_000)  # and what waits while it asks for another one
    raise AssertionError("no cell was run")


def answer(question):
    """Say yes to JupyterLab, such as to the kernel it offers when it was asked to run too early."""
    print("JupyterLab asked:", question.inner_text())
    question.locator(".jp-mod-accept").click()


def changed(image, old):
    """The src of an <img> once it is another one than `old`."""
    for _ in range(240):
        new = image.get_attribute("src")
        if new != old:
            return new
        time.sleep(0.5)
    raise AssertionError("the picture is still the same after two minutes")


def pixels(image):
    return np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("RGB"), dtype=float)


def keep(page, jupyter, what):
    page.screenshot(path=PICTURES / f"{jupyter[0].__name__.lower()}-{what}.png")


def drag(page, slider, share):
    """Take the slider's handle to `share` of its way."""
    track = slider.locator(".noUi-base, .ui-slider").first.bounding_box()
    handle = slider.locator(".noUi-handle, .ui-slider-handle").first.bounding_box()
    y = handle["y"] + handle["height"] / 2
    page.mouse.move(handle["x"] + handle["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] * share, y, steps=5)
    page.mouse.up()


def upload(page, button, path):
    with page.expect_file_chooser() as chooser:
        button.click()
    chooser.value.set_files(path)


def test_sliders_and_uploads_of_notebook_05_change_its_pictures(jupyter, page, tmp_path):
    sample = 36095  # of background 9; a tenth of the picture is new
    bg, img = rooms.render_backgrounds([9], 384)["bg"], rooms.render([sample], 384)["fg_bg"]
    for name, array in {"bg": bg, "img": img}.items():
        Image.fromarray(array[0]).save(tmp_path / f"{name}.jpg")
    run_all(page, jupyter, "05")
    done = page.locator(jupyter[0].cell).last.get_by_text("one distance known   depth")
    error = page.locator(jupyter[0].error)
    done.or_(error).first.wait_for(timeout=1000 * TIMEOUT_S)
    assert not error.count(), error.first.inner_text()

    box = page.locator(".widget-interact")
    picture, sliders = box.locator("img"), box.locator(".widget-slider")
    picture.scroll_into_view_if_needed()
    first = changed(picture, None)
    keep(page, jupyter, "sliders-before")
    drag(page, sliders.nth(0), 0.6)
    second = changed(picture, first)
    drag(page, sliders.nth(1), 0.95)
    changed(picture, second)
    keep(page, jupyter, "sliders-after")

    cell = page.locator(jupyter[0].cell, has=page.locator(".widget-upload"))
    cell.scroll_into_view_if_needed()
    upload(page, cell.locator(".widget-upload").nth(0), tmp_path / "bg.jpg")
    upload(page, cell.locator(".widget-upload").nth(1), tmp_path / "img.jpg")
    picture = cell.locator("img")
    first, new = changed(picture, None), pixels(picture)
    keep(page, jupyter, "uploads")
    upload(page, cell.locator(".widget-upload").nth(1), tmp_path / "bg.jpg")
    changed(picture, first)
    keep(page, jupyter, "uploads-nothing-new")
    for half in np.array_split(np.abs(new - pixels(picture)), 4, axis=1)[2:]:  # mask, depth
        assert half.mean() > 0.2


def test_the_tensorboard_cell_of_notebook_04_shows_a_curve(jupyter, page):
    run_all(page, jupyter, "tensorboard")
    frame = page.frame_locator("iframe[id^=tensorboard-frame]")
    card = frame.locator("scalar-card").first
    card.wait_for(timeout=1000 * TIMEOUT_S)
    card.scroll_into_view_if_needed()
    for _ in range(60):
        red, _, blue = np.moveaxis(pixels(card), -1, 0)
        if ((red < 120) & (blue > red + 20)).sum() > 300:  # the line is dark blue, all else grey
            break
        time.sleep(1)
    else:
        raise AssertionError("a card without a line")
    keep(page, jupyter, "tensorboard")


def camera_page(browser, headers):
    """A page with Colab's bridge, of a host that may use the (made up) camera, if not forbidden."""
    context = browser.new_context(permissions=["camera"])
    page = context.new_page()
    page.route("http://localhost/", lambda route: route.fulfill(body="<body>", headers=headers))
    page.goto("http://localhost/")
    page.evaluate("window.google = {colab: {output: {setIframeHeight() {}}}}")
    page.evaluate("script => { window.answer = eval(script); }", widgets.TAKE_PHOTOS_JS)
    return page


def test_the_script_for_colab_takes_two_photos_at_a_press_of_its_button(browser):
    page = camera_page(browser, {})
    for _ in range(2):
        page.get_by_role("button", name="Photograph").click()
        page.get_by_text(": 3").wait_for()
        page.screenshot(path=PICTURES / "camera.png")
    answer = page.evaluate("answer")
    assert page.locator("video").count() == 0
    page.context.close()
    photos = [camera.load_photo(widgets._jpeg(url)) for url in answer["photos"]]
    assert photos[0].shape == photos[1].shape and (photos[0] != photos[1]).any()


def test_the_script_for_colab_says_that_the_camera_was_refused(browser):
    page = camera_page(browser, {"Permissions-Policy": "camera=()"})
    assert page.evaluate("answer")["error"].startswith("NotAllowedError")
    page.context.close()
