"""Folders of annotated pictures, as tools leave them, made small."""

import json
import warnings

from PIL import Image

from sidetune.data.detections import read_objects

SIZE = (64, 48)
"""Width and height."""


def picture(path, size=SIZE, orientation=1, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (len(path.name), 90, 30))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, **({"exif": exif} if orientation != 1 else {}), **how)
    return path


def write(path, text, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, **{"encoding": "utf-8"} | how)
    return path


def dump(path, data):
    return write(path, json.dumps(data))


def image(key, name, width=SIZE[0], height=SIZE[1]):
    return {"id": key, "file_name": name, "width": width, "height": height}


def mark(key, image, box=(10, 10, 20, 20), category=1, **more):
    found = {"id": key, "image_id": image, "category_id": category, "area": 1, "iscrowd": 0}
    return found | ({} if box is None else {"bbox": list(box)}) | more


def coco(images, annotations, names=("bolt", "nut")):
    categories = names if isinstance(names, list) else [{"id": i, "name": n} for i, n in enumerate(names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def voc(*objects, size=SIZE, filename="a.jpg"):
    sides = "" if size is None else f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>{filename}</filename>\n{sides}\n" + "\n".join(objects) + "\n</annotation>\n"


def thing(name="bolt", box=(11, 11, 30, 30), more=""):
    tags = zip(("xmin", "ymin", "xmax", "ymax"), box or (), strict=False)
    corners = f"<bndbox>{''.join(f'<{tag}>{v}</{tag}>' for tag, v in tags)}</bndbox>" if box else ""
    return f"<object><name>{name}</name>{more}{corners}</object>"


def read(root, said=None, **how):
    """All that a folder holds as one part, by the pictures' names, with the classes and what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = read_objects(root, **{"val": 0.0, "test": 0.0} | how)
    if said is not None:
        said += [str(warning.message) for warning in caught]
    return splits


def by_name(samples):
    return {path.name: labels for path, labels in zip(samples.images, samples.labels, strict=True)}


def boxes(samples, name):
    return by_name(samples)[name].boxes.tolist()
