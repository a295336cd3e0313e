"""Tiny CLIP folders with random weights, as Hugging Face's, without PyTorch.

teacher = load_teacher(make_clip(tmp_path / "clip"))
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from mrd_jax.teachers.clip import ClipTeacher

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ("photo", "render", "shape", "of", "the", "red", "chair", "table")
TOWER = {
  "num_hidden_layers": 2,
  "hidden_act": "quick_gelu",
  "layer_norm_eps": 1e-5,
}
TEXT = TOWER | {
  "hidden_size": 32,
  "intermediate_size": 48,
  "num_attention_heads": 2,
  "max_position_embeddings": 77,
}
VISION = TOWER | {
  "hidden_size": 48,
  "intermediate_size": 64,
  "num_attention_heads": 3,
  "image_size": 32,
  "patch_size": 8,
  "num_channels": 3,
}


def make_clip(
  folder: Path,
  *,
  seed: int = 0,
  embed_dim: int = 24,
  text: Mapping[str, Any] | None = None,
  vision: Mapping[str, Any] | None = None,
  dtype: str = "float32",
  shards: int = 1,
) -> Path:
  """Writes config, weights, tokenizer and preprocessor.

  Args:
    folder: Is made.
    seed: Of the weights.
    embed_dim: D, width of the embedding space.
    text: Changes of `TEXT`, the config of the text tower.
    vision: Changes of `VISION`, that of the image tower.
    dtype: Of the tensors: float32, float16 or bfloat16.
    shards: Files of weights; more than one have an index.

  Returns:
    `folder`.
  """
  folder.mkdir(parents=True, exist_ok=True)
  vocabulary = make_tokenizer(folder, TEXT | (text or {}))
  end = vocabulary[END]
  ids = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
  text = {"vocab_size": len(vocabulary)} | TEXT | ids | (text or {})
  vision = VISION | (vision or {})
  config = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": embed_dim,
    "text_config": {"projection_dim": embed_dim, **text},
    "vision_config": {"projection_dim": embed_dim, **vision},
  }
  write(folder / "config.json", config)
  side = vision["image_size"]
  write(
    folder / "preprocessor_config.json",
    {
      "crop_size": side,
      "do_center_crop": True,
      "do_normalize": True,
      "do_resize": True,
      "image_mean": [0.48145466, 0.4578275, 0.40821073],
      "image_processor_type": "CLIPImageProcessor",
      "image_std": [0.26862954, 0.26130258, 0.27577711],
      "resample": 3,
      "size": side,
    },
  )
  tensors = random_tensors(config, seed)
  kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
  tensors = {k: v.astype(kind, copy=False) for k, v in tensors.items()}
  save_shards(folder, tensors, shards)
  return folder


def load_teacher(folder: Path | str, **options: Any) -> ClipTeacher:
  """Its teacher, in float32, a row a device at a time."""
  options = {"dtype": "float32", "batch_size": 1} | options
  return ClipTeacher.from_pretrained(folder, **options)


def save_shards(
  folder: Path, tensors: Mapping[str, np.ndarray], shards: int
) -> None:
  """Writes model.safetensors, or several and their index."""
  if shards == 1:
    save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
    return
  places = {}
  for i in range(shards):
    name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
    part = {key: tensors[key] for key in list(tensors)[i::shards]}
    save_file(part, folder / name, {"format": "pt"})
    places |= dict.fromkeys(part, name)
  write(
    folder / "model.safetensors.index.json",
    {"metadata": {}, "weight_map": places},
  )


def make_tokenizer(folder: Path, text: Mapping[str, Any]) -> dict[str, int]:
  """Writes a byte-level tokenizer that has a token for each of `WORDS`.

  Returns:
    The vocabulary; the last two are the start and the end of a text.
  """
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = [byte for byte in range(256) if byte not in printable]
  letters = [chr(b) for b in printable]
  letters += [chr(256 + i) for i in range(len(others))]
  tokens = letters + [letter + "</w>" for letter in letters]
  merges = []
  for word in WORDS:
    parts = [*word[:-1], word[-1] + "</w>"]
    while len(parts) > 1:
      merges.append(f"{parts[0]} {parts[1]}")
      parts[:2] = ["".join(parts[:2])]
      tokens.append(parts[0])
  tokens = [*dict.fromkeys(tokens), START, END]
  vocabulary = {token: i for i, token in enumerate(tokens)}
  write(folder / "vocab.json", vocabulary)
  lines = ["#version: 0.2", *dict.fromkeys(merges)]
  (folder / "merges.txt").write_text("\n".join(lines) + "\n")
  write(
    folder / "tokenizer_config.json",
    {
      "tokenizer_class": "CLIPTokenizer",
      "bos_token": START,
      "eos_token": END,
      "pad_token": END,
      "unk_token": END,
      "model_max_length": text["max_position_embeddings"],
    },
  )
  return vocabulary


def random_tensors(
  config: Mapping[str, Any], seed: int
) -> dict[str, np.ndarray]:
  """The tensors of a `CLIPModel`, by Hugging Face's names, in float32."""
  rng = np.random.default_rng(seed)
  tensors = {"logit_scale": np.asarray(np.log(1 / 0.07), np.float32)}

  def draw(name: str, *shape: int, scale: float = 1.0, mean: float = 0.0):
    tensors[name] = np.asarray(rng.standard_normal(shape, np.float32))
    tensors[name] *= scale
    tensors[name] += mean

  def norm(name: str, width: int):
    draw(f"{name}.weight", width, scale=0.1, mean=1.0)
    draw(f"{name}.bias", width, scale=0.1)

  def linear(name: str, rows: int, columns: int):
    draw(f"{name}.weight", rows, columns, scale=columns**-0.5)
    draw(f"{name}.bias", rows, scale=0.1)

  text, vision = config["text_config"], config["vision_config"]
  for tower, sizes in (("text_model", text), ("vision_model", vision)):
    width, mlp = sizes["hidden_size"], sizes["intermediate_size"]
    for i in range(sizes["num_hidden_layers"]):
      layer = f"{tower}.encoder.layers.{i}"
      for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        linear(f"{layer}.self_attn.{name}", width, width)
      norm(f"{layer}.layer_norm1", width)
      linear(f"{layer}.mlp.fc1", mlp, width)
      linear(f"{layer}.mlp.fc2", width, mlp)
      norm(f"{layer}.layer_norm2", width)
  width = text["hidden_size"]
  place = "text_model.embeddings"
  draw(f"{place}.token_embedding.weight", text["vocab_size"], width)
  draw(
    f"{place}.position_embedding.weight",
    text["max_position_embeddings"],
    width,
    scale=0.3,
  )
  norm("text_model.final_layer_norm", width)
  draw("text_projection.weight", config["projection_dim"], width)

  width, patch = vision["hidden_size"], vision["patch_size"]
  place = "vision_model.embeddings"
  draw(f"{place}.class_embedding", width)
  draw(
    f"{place}.patch_embedding.weight",
    width,
    3,
    patch,
    patch,
    scale=(3 * patch**2) ** -0.5,
  )
  patches = (vision["image_size"] // patch) ** 2
  draw(f"{place}.position_embedding.weight", patches + 1, width, scale=0.3)
  norm("vision_model.pre_layrnorm", width)  # so spelt there
  norm("vision_model.post_layernorm", width)
  draw("visual_projection.weight", config["projection_dim"], width)
  return tensors


def write(path: Path, values: Any) -> None:
  path.write_text(json.dumps(values, indent=2))


def pictures(n: int = 11, seed: int = 0) -> list[np.ndarray]:
  """Arrays of different sizes; smooth, as photos are."""
  rng = np.random.default_rng(seed)
  found = []
  for height, width in rng.integers(20, 90, (n, 2)):
    small = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    size = (int(width), int(height))
    found.append(np.asarray(Image.fromarray(small).resize(size)))
  return found


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
  """An image file of a kind that Pillow knows."""
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()
