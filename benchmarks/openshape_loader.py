"""OpenShape's files and what its loader does with one: the baseline of reading.

Written from their description, see `docs/data.md`, "The input stage".
"""

from pathlib import Path
from typing import Any

import numpy as np


def make_sample(i: int, points: int, dim: int) -> dict[str, Any]:
  """One shape in the keys of OpenShape's README, float32."""
  rng = np.random.default_rng(i)

  def unit(*shape: int) -> np.ndarray:
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)

  def text_feat() -> dict[str, np.ndarray]:
    return {"original": unit(1, dim), "prompt_avg": unit(1, dim)}

  return {
    "dataset": "Objaverse",
    "group": "000-000",
    "id": f"{i:032x}",
    "xyz": unit(points, 3),
    "rgb": rng.random((points, 3), np.float32),
    "image_feat": unit(12, dim),
    "thumbnail_feat": unit(dim),
    "text": ["the name of a shape"],
    "text_feat": [text_feat()],
    "blip_caption": "a caption of the shape",
    "blip_caption_feat": text_feat(),
    "msft_caption": "",
    "msft_caption_feat": text_feat(),
    "retrieval_text": ["a text of something alike"],
    "retrieval_text_feat": [{"original": unit(1, dim)}],
  }


def cast(value: Any, dtype: str) -> Any:
  """The same with all its arrays in another type."""
  if isinstance(value, dict):
    return {key: cast(item, dtype) for key, item in value.items()}
  if isinstance(value, list):
    return [cast(item, dtype) for item in value]
  return value.astype(dtype) if isinstance(value, np.ndarray) else value


def write_npy(
  folder: Path, shapes: int, points: int, dim: int, dtype: str
) -> None:
  """Writes 0-d object arrays of a pickled dict, a file for each shape."""
  folder.mkdir()
  for i in range(shapes):
    sample = np.empty((), object)
    sample[()] = cast(make_sample(i, points, dim), dtype)
    np.save(folder / f"{i:06d}.npy", sample, allow_pickle=True)


def rotation(axis: int, angle: float) -> np.ndarray:
  """(3, 3), about a coordinate axis, in radians."""
  i, j = (axis + 1) % 3, (axis + 2) % 3
  r_33 = np.eye(3)
  r_33[i, i] = r_33[j, j] = np.cos(angle)
  r_33[j, i] = np.sin(angle)
  r_33[i, j] = -r_33[j, i]
  return r_33


def openshape_example(path: Path) -> dict[str, Any]:
  """What a worker of OpenShape's loader makes of a file, in NumPy.

  The same steps in the same order, with the same numbers.
  """
  sample = np.load(path, allow_pickle=True).item()
  order = np.random.permutation(len(sample["xyz"]))
  xyz_N3 = sample["xyz"][order].astype(np.float32)
  rgb_N3 = sample["rgb"][order].astype(np.float32)
  xyz_N3[:, [1, 2]] = xyz_N3[:, [2, 1]]
  xyz_N3 -= xyz_N3.mean(axis=0)
  largest = np.sqrt((xyz_N3**2).sum(axis=1)).max()
  xyz_N3 = np.zeros_like(xyz_N3) if largest < 1e-6 else xyz_N3 / largest
  dropped = np.random.random(len(xyz_N3)) <= np.random.random() * 0.875
  xyz_N3[dropped] = xyz_N3[0]
  xyz_N3 *= np.random.uniform(0.8, 1.25)
  xyz_N3 += np.random.uniform(-0.1, 0.1, 3)
  x, y, z = np.clip(np.random.normal(0, 0.06, 3), -0.18, 0.18)
  xyz_N3 = xyz_N3 @ (rotation(2, z) @ rotation(1, y) @ rotation(0, x))
  xyz_N3 = xyz_N3 @ rotation(2, np.random.uniform(0, 2 * np.pi))
  if np.random.random() < 0.5:
    rgb_N3 = np.full_like(rgb_N3, 0.4)
  texts = [sample["text_feat"][0]["prompt_avg"]]
  source = "blip" if np.random.random() < 0.5 else "msft"
  if sample[f"{source}_caption"]:
    texts.append(sample[f"{source}_caption_feat"]["prompt_avg"])
  retrieved = sample["retrieval_text_feat"]
  texts.append(retrieved[np.random.randint(len(retrieved))]["original"])
  image = sample["thumbnail_feat"]
  if np.random.random() < 0.5:
    image = sample["image_feat"][np.random.randint(12)]
  return {
    "xyz": xyz_N3.astype(np.float32),
    "features": np.concatenate([xyz_N3, rgb_N3], axis=1).astype(np.float32),
    "text_feat": texts[np.random.randint(len(texts))][0].astype(np.float32),
    "image_feat": image.astype(np.float32),
  }
