"""Writes the model card (README.md) of a model folder."""

import json
from typing import Any

from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.zoo.registry import SYSTEMS

LIBRARY = "library_name: mrd_jax"
_USE = """\
```python
from mrd_jax import Encoder

encoder = Encoder.from_pretrained("user/model")  # or this folder
embeddings = encoder(points)  # (B, N, 3 or 6): xyz (y up), rgb -> (B, {dim})
```
{torch}
Embeddings have unit length. Their cosines with the teacher's text and image
embeddings classify and retrieve shapes.
"""
_WITH_TORCH = """
With PyTorch alone (`pointbert_torch.py` and `pointbert_modules.py` are files
of mrd_jax, in `mrd_jax/convert/`):

```python
from pointbert_torch import load

embeddings = load("model.safetensors").embed(points)
```
"""

_UNLICENSED = (
  "Not stated. Whoever publishes these weights has to state one that the "
  "licences of the training data and of the teacher allow."
)


def model_card(config: EncoderConfig) -> str:
  """Describes an encoder: use, data, configuration, results, licence."""
  dim, name = config.dim, SYSTEMS[config.system].NAME
  torch = _WITH_TORCH if config.system == "pointbert" else ""
  parts = [
    _front_matter(config),
    f"# Point-cloud encoder ({name})\n",
    "An encoder of coloured point clouds, distilled from CLIP with "
    "mrd_jax, which implements Multi-modal Relation Distillation (ECCV 2024)."
    if config.training_config
    else "An encoder of coloured point clouds, converted by mrd_jax.",
    f"\nSource: {config.source or 'not stated'}.\n",
    "## Use\n",
    _USE.format(dim=dim, torch=torch),
    "## Input and output\n",
    _table(
      {
        "points": f"at most {config.num_points:,}, of larger clouds a sample",
        "up axis inside the model": config.up_axis,
        "without colours": f"grey, {config.colour_fill:g}",
        "embedding": f"{dim} values, in the space of: {config.embedding_space}",
        "logit scale (ln of 1 / temperature)": config.logit_scale,
      }
    ),
    "## Architecture\n",
    _table(
      {
        field.replace("_", " "): value
        for field, value in vars(config.architecture).items()
      }
    ),
    "## Data\n",
    _table(config.data) if config.data else "Not recorded.\n",
    "## Training\n",
    _training(config),
    "## Results\n",
    _results(config),
    "## Licence\n",
    f"{config.license or _UNLICENSED}\n",
  ]
  return "\n".join(parts)


def _front_matter(config: EncoderConfig) -> str:
  lines = ["---", LIBRARY, "pipeline_tag: feature-extraction"]
  if config.license:
    lines.append(f"license: {json.dumps(config.license)}")
  tags = ("point-cloud", "3d", "clip", config.system)
  return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---", ""])


def _training(config: EncoderConfig) -> str:
  if not config.training_config:
    return f"Steps: {config.step or 'not recorded'}.\n"
  values = {"steps": config.step}
  for section in ("train", "optimizer", "loss", "augment"):
    for name, value in config.training_config.get(section, {}).items():
      values[f"{section}.{name}"] = value
  return f"{_table(values)}\nThe whole configuration is in `config.json`.\n"


def _results(config: EncoderConfig) -> str:
  metrics = {
    name: f"{value:.4f}" if isinstance(value, float) else value
    for name, value in (config.results or {}).get("metrics", {}).items()
  }
  if not metrics:
    return "None were recorded for these weights.\n"
  where = f" of {config.data['name']}" if config.data else ""
  return f"Held-out splits{where}, shares of 1.\n\n{_table(metrics)}"


def _table(values: dict[str, Any]) -> str:
  escaped = {k: str(v).replace("|", "\\|") for k, v in values.items()}
  rows = "".join(f"| {name} | {value} |\n" for name, value in escaped.items())
  return "| | |\n|---|---|\n" + rows
