"""Small files in the layouts of ScanObjectNN and ModelNet40."""

import json

import h5py
import numpy as np
from openshape_bundle import npy_bytes

CLASSES = ("airplane", "night_stand", "tv_stand")
NAMES = ("airplane", "night stand", "tv stand")
_AUGMENTED = "objectdataset_augmentedrot_scale75.h5"
SCANOBJECTNN = {  # as in the published archive, h5_files.zip
  ("obj_bg", "train"): "main_split/training_objectdataset.h5",
  ("obj_bg", "test"): "main_split/test_objectdataset.h5",
  ("obj_only", "train"): "main_split_nobg/training_objectdataset.h5",
  ("obj_only", "test"): "main_split_nobg/test_objectdataset.h5",
  ("pb_t50_rs", "train"): f"main_split/training_{_AUGMENTED}",
  ("pb_t50_rs", "test"): f"main_split/test_{_AUGMENTED}",
}


def clouds(count, seed=0, points=16):
  """(count, points, 3) float32, tallest along y."""
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(count, points, 3)) * (1, 5, 1)).astype(np.float32)


def write_h5(path, data, label, **others):
  path.parent.mkdir(parents=True, exist_ok=True)
  with h5py.File(path, "w") as file:
    for name, values in {"data": data, "label": label, **others}.items():
      if values is not None:
        file[name] = values
  return path


def write_hdf5(folder, part="test", names=True):
  """modelnet40_ply_hdf5_2048: two files, 3 and 2 clouds.

  Returns:
    (classes, ids) in their order.
  """
  categories = ["tv_stand", "airplane", "night_stand", "airplane", "tv_stand"]
  ids = [f"{name}_{600 + i:04d}" for i, name in enumerate(categories)]
  label = np.array([[CLASSES.index(name)] for name in categories], np.uint8)
  for number, rows in enumerate((slice(0, 3), slice(3, 5))):
    file = folder / f"ply_data_{part}{number}.h5"
    write_h5(file, clouds(5)[rows], label[rows], normal=np.zeros((1, 3)))
    if names:
      paths = [f"{i.rpartition('_')[0]}/{i}.ply" for i in ids[rows]]
      listed = folder / f"ply_data_{part}_{number}_id2file.json"
      listed.write_text(json.dumps(paths))
  (folder / "shape_names.txt").write_text("\n".join(CLASSES) + "\n")
  listed = f"data/modelnet40_ply_hdf5_2048/ply_data_{part}"
  lines = f"{listed}0.h5\n{listed}1.h5\n\n"
  (folder / f"{part}_files.txt").write_text(lines)
  return categories, ids


def write_txt(folder, contents, classes=40, part="test"):
  """modelnet40_normal_resampled: {name: text or array}, and the lists."""
  folder.mkdir(exist_ok=True)
  (folder / f"modelnet{classes}_shape_names.txt").write_text("\n".join(CLASSES))
  (folder / f"modelnet{classes}_{part}.txt").write_text("\n".join(contents))
  for name, content in contents.items():
    file = folder / name.rpartition("_")[0] / f"{name}.txt"
    if content is not None:
      file.parent.mkdir(exist_ok=True)
      if isinstance(content, str):
        file.write_text(content)
      else:
        np.savetxt(file, content, fmt="%.6f", delimiter=",")
  return folder


def write_openshape(root, clouds_written):
  """OpenShape's test_pc.npy."""
  folder = root / "meta_data" / "modelnet40"
  folder.mkdir(parents=True)
  feature = {"open_clip_text_feat": np.ones((1, 4), np.float32)}
  # The order of this file, not the alphabet, numbers the classes.
  (folder / "cat_name_pt_feat.npy").write_bytes(
    npy_bytes({"tv stand": feature, "airplane": feature})
  )
  rows = [
    {"name": "airplane_0627", "category": "airplane"},
    {"name": "tv_stand_0268", "category": "tv stand"},
    {"name": "lamp_0125", "category": "lamp"},
  ]
  (folder / "test_split.json").write_text(json.dumps(rows))
  array = np.empty(len(clouds_written), object)
  array[:] = clouds_written
  np.save(folder / "test_pc.npy", array, allow_pickle=True)
