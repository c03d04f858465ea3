"""Small data sets in the shapes of public archives, whose pictures carry in their pixels what they
are, so that a wrong pairing shows.

A name with `!` lies in a zip of its own: `fg_bg/bg001.zip!./bg001_fg001_01.jpg`.
"""

import io
import zipfile
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageFilter

SIZE = 32
LITTER = ("__MACOSX/._bg", "__MACOSX/fg_bg/._bg001.zip", "fg_bg/.DS_Store", "Thumbs.db")


@dataclass
class Archive:
    """Members by name; what each sample is, and the names of its pictures."""

    members: dict[str, bytes] = field(default_factory=dict)
    samples: list[dict] = field(default_factory=list)  # serial, bg, fg, flip, i, by kind a name

    def folder(self, root):
        """Everything unpacked, the zips too."""
        for name, data in (self.members | dict.fromkeys(LITTER, b"")).items():
            path = root / plain(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return root

    def zips(self, root):
        """Files, and zips beside them, with what macOS adds."""
        root.mkdir(exist_ok=True)
        for name, data in self.members.items():
            container, _, member = name.rpartition("!")
            path = root / (container or name)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not container:
                path.write_bytes(data)
                continue
            with zipfile.ZipFile(path, "a") as file:
                if not file.namelist():
                    for litter in LITTER:
                        file.writestr(litter, b"")
                file.writestr(member, data)
        return root

    def zip(self, path, top="./"):
        """One zip of it all, with its folders as members."""
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr(f"{top}bg/", b"")
            for name, data in (self.members | dict.fromkeys(LITTER, b"")).items():
                file.writestr(top + plain(name), data)
        return path


def plain(name):
    """The name that a member has whatever holds it."""
    return name.replace(".zip!", "/").replace("./", "")


def encoded(image, form="JPEG"):
    file = io.BytesIO()
    image.save(file, form, quality=95)
    return file.getvalue()


def background(bg):
    return Image.new("RGB", (SIZE, SIZE), (10, 60 + 60 * bg, 200))


def mask(serial):
    """A box whose place tells the serial number."""
    image = np.zeros((SIZE, SIZE), np.uint8)
    y, x = divmod(serial, 8)
    image[8 * y : 8 * y + 8, 4 * x : 4 * x + 4] = 255
    return Image.fromarray(image)


def picture(serial):
    """Its background, and something white where its mask is."""
    image = background(serial >> 3)
    image.paste("white", mask=mask(serial))
    return image


def depth(serial):
    """Near dark: far at the top, near at the bottom, an object in front, a corner that tells."""
    image = np.repeat(np.linspace(250, 60, SIZE, dtype=np.uint8)[:, None], SIZE, axis=1)
    image[np.asarray(mask(serial)) > 0] -= 50
    image[:8, :8] = 4 * serial + 100
    return Image.fromarray(image)


def serial_of(kind, image):
    """Whose picture this is, from its pixels."""
    if kind == "depth":
        return round((float(image[2:6, 2:6].mean()) - 100) / 4)
    new = image[..., 1] > 190 if kind == "fg_bg" else image
    y, x = ((at + 0.5) * SIZE / len(image) - 0.5 for at in np.nonzero(new))
    return round((y.mean() - 3.5) / 8) * 8 + round((x.mean() - 1.5) / 4)


def bg_of(image):
    return round((float(image[..., 1].mean()) - 60) / 60)


def names_of(letter, bg, fg, flip, i, serial):
    """Names of a sample's fg_bg, mask and depth, and of its bg, in one of the layouts."""
    if letter == "A":
        name = f"bg{bg + 1:03}_fg{fg + 1:03}_{i + 1 + 20 * flip:02}"
        return (
            f"MODEST/bg_fg/{name}.jpeg",
            f"MODEST/bg_fg_mask/{name}_mask.jpeg",
            f"MODEST/bg_fg_depth_map/{name}_depth_map.jpeg",
            f"MODEST/bg/bg{bg + 1:03}.jpeg",
        )
    if letter == "B":
        name = f"bg{bg + 1:03}_fg{fg + 1:03}_{i + 1 + 20 * flip:02}"
        return (
            f"fg_bg/bg{bg + 1:03}.zip!./fg_bg/{name}.jpg",
            f"fg_bg_mask/bg{bg + 1:03}.zip!fg_bg/{name}_mask.jpg",
            f"fg_bg_depth/bg{bg + 1:03}.zip!{name}",
            f"bg/bg{bg + 1:03}.jpg",
        )
    if letter == "C":
        scene = ("office2", "office10")[bg]
        name = f"{scene}_{'flip_' * flip}person{fg + 9}_{i + 9}.png"  # JPEG all the same
        folders = ("fg_bg", "fg_bg_masks", "depth_maps")
        return (*(f"{folder}/{scene}.zip!{name}" for folder in folders), f"bg/{scene}.jpg")
    if letter == "D":
        scene = ("bg_2", "bg_10")[bg]
        name = f"{scene}fg{fg + 9}{'_flip' * flip}_{i + 9}.jpg"
        folders = ("fg_bg", "fg_bg_mask", "Depth_output")
        return (
            *(f"Mask_RCNN/{folder}.zip!{name}" for folder in folders),
            f"Mask_RCNN/bg/{scene}.jpg",
        )
    if letter == "F":
        top, scene = "depth_dataset_cleaned", f"bg_{bg:03}"
        name = f"fg_{fg:03}_bg_{bg:03}"
        return (
            f"fg_bg.zip!{top}/fg_bg/{scene}/{name}_{serial:06}.jpg",
            f"fg_bg_mask.zip!{top}/fg_bg_mask/{scene}/{name}_mask_{serial:06}.jpg",
            f"depth.zip!mask_fg_bg/{scene}/mask_{name}_{serial:06}.png",
            f"bg.zip!{top}/bg/{scene}.jpg",
        )
    if letter == "G":
        name = f"bg_{bg:02}/bg_{bg:02}_fg_{fg:02}_{'FT'[flip]}_{serial:06}.jpg"
        return (f"fg_bg/{name}", f"fg_bg_masks/{name}", f"fg_bg_depth/{name}", f"bg/bg_{bg:02}.jpg")
    if letter == "H":
        name = f"bg_{bg + 1:03}/img_{serial + 1:04}.jpg"
        return (
            f"data/fg_bg/{name}",
            f"data/fg_bg_mask/{name}",
            f"fg_bg_depth/{name}",
            f"dataset/bg/bg_{bg + 1:03}.jpg",
        )
    if letter == "J":
        batch = f"batch{fg + 1}"
        name = f"{fg + 1}_{(2, 10)[bg]}_{flip}_{i + 1}.jpg"
        top = f"{batch}_images.zip!{batch}/"
        return (
            f"{top}fg_bg_jpg/fg_bg_{name}",
            f"{top}mask_black_jpg/bg_mask_{name}",
            f"{top}depth_fg_bg_jpg/depth_fg_bg_{name}",
            f"{top}bg_jpg/bg_img_{(2, 10)[bg]}.jpg",
        )
    number = f"{serial:04}.jpg"  # "folders": nothing but numbers, a background for each
    return (f"overlay/{number}", f"cut/{number}", f"far/{number}", f"empty/{number}")


FOLDERS = (
    r"fg_bg=overlay/(?P<n>\d+)\.jpg$;mask=cut/(?P<n>\d+)\.jpg$;"
    r"bg=empty/(?P<n>\d+)\.jpg$;depth=far/(?P<n>\d+)\.jpg$"
)
LETTERS = "ABCDFGHJ"


def archive(letter, *, inverted=False, with_depth=True):
    """16 samples: 2 backgrounds x 2 objects x 2 flips x 2 numbers."""
    made = Archive()
    for serial in range(16):
        bg, fg, flip, i = (int(bit) for bit in f"{serial:04b}")
        names = names_of(letter, bg, fg, flip, i, serial)
        sample = dict(zip(("fg_bg", "mask", "depth", "bg"), names, strict=True))
        scenes = {"fg_bg": picture(serial), "bg": background(bg)}
        if letter == "J":
            scenes = {kind: image.getchannel(1) for kind, image in scenes.items()}
        far = depth(serial).point(lambda grey: 255 - grey) if inverted else depth(serial)
        images = scenes | {
            "mask": mask(serial).filter(ImageFilter.GaussianBlur(0.5)),
            "depth": far.convert("RGB") if letter == "H" else far,
        }
        if not with_depth:
            del images["depth"]
        for kind, image in images.items():
            form = "PNG" if (letter, kind) == ("F", "depth") else "JPEG"
            made.members[sample[kind]] = encoded(image, form)
        made.samples.append(sample | {"serial": serial, "bg_number": bg, "fg_number": fg})
    made.members["fg/fg001.png"] = encoded(picture(0), "PNG")
    made.members["labels/bg001_labels.txt"] = b"1, 2, 3, 4 person1_1.png\n"
    return made
