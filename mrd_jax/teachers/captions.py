"""Describes rendered views by an image-to-text model of Hugging Face.

BLIP, BLIP-2, GIT, or a vision encoder with a text decoder: whatever writes a
sentence about an image without being asked a question.  Needs PyTorch, since
transformers has these models for it alone; training reads the captions'
features and never comes here.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax.errors import BadInput
from mrd_jax.io import hub
from mrd_jax.teachers.files import reason

# Safe formats alone: a pytorch_model.bin is a pickle.
_SUFFIXES = (".json", ".safetensors", ".txt", ".model")
BATCH_SIZE = 8  # images at a time; no caption depends on it
MAX_NEW_TOKENS = 30  # tokens of a caption
_REMEDY = (
  "; without network, put config.json, model.safetensors, "
  "preprocessor_config.json and the tokenizer's files into a folder and name "
  "that"
)


class Captioner:
  """captioner = Captioner("Salesforce/blip-image-captioning-base")"""

  def __init__(self, source: str | os.PathLike[str]):
    """Loads a model from a folder or from the Hugging Face hub.

    On a GPU it computes in the type of its weights, else in float32.

    Args:
      source: A folder, or the name of a repository, "user/model".

    Raises:
      BadInput: if there is no such model, it cannot be fetched, its weights
        are not in safetensors or not all there, or it makes no text of images.
      ModuleNotFoundError: without PyTorch.
    """
    import torch  # an extra
    import transformers

    folder = Path(source)
    if not folder.is_dir():
      repository = hub.Repository(str(source), remedy=_REMEDY)
      for name in sorted(repository.names()):
        if name.endswith(_SUFFIXES):
          repository.get(name)
      folder = repository.folder
    on_gpu = torch.cuda.is_available()
    try:
      loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype="auto" if on_gpu else torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
        attn_implementation=None,  # not what its config.json may name
        output_loading_info=True,
      )
      model, loading = loaded
      self._tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False
      )
      self._image_processor = transformers.AutoImageProcessor.from_pretrained(
        folder, backend="pil", trust_remote_code=False
      )
    except Exception as error:  # each part of the library has its own
      raise BadInput(
        f"{source} cannot be used as an image-to-text model: {reason(error)}"
      ) from error
    if loading["missing_keys"]:
      raise BadInput(
        f"{source} lacks {len(loading['missing_keys'])} weights, for example "
        f"{min(loading['missing_keys'])}: it is not a {type(model).__name__}; "
        "name a model that was trained to write captions"
      )
    self._name = str(source)
    self._model = model.eval().to("cuda" if on_gpu else "cpu")

  def caption(self, images: Sequence[np.ndarray]) -> list[str]:
    """Describes images: the likeliest token each time, nothing is drawn.

    Args:
      images: (H, W, 3) uint8 each, sizes may differ.

    Returns:
      A line of text for each image; "" where the model has nothing to say.

    Raises:
      BadInput: naming the model, if it cannot caption without a question.
    """
    import torch

    captions = []
    for start in range(0, len(images), BATCH_SIZE):
      pixels = self._image_processor(
        list(images[start : start + BATCH_SIZE]),
        input_data_format="channels_last",  # a guess, for 3 rows, is wrong
        return_tensors="pt",
      )["pixel_values"]
      try:
        with torch.inference_mode():
          tokens = self._model.generate(
            pixel_values=pixels.to(self._model.device, self._model.dtype),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            num_beams=1,
          )
      except Exception as error:
        raise BadInput(
          f"{self._name} cannot caption an image by itself ({reason(error)}); "
          "name a model like BLIP, BLIP-2 or GIT"
        ) from error
      texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
      captions += [" ".join(text.split()) for text in texts]
    return captions
