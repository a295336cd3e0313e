"""Loads the text tower of an encoder's space, as its authors have it."""

import functools
import re
from pathlib import Path

from mrd_jax.encoder import clip_files, named
from mrd_jax.encoder.files import EncoderConfig
from mrd_jax.errors import BadInput
from mrd_jax.io.hub import Repository
from mrd_jax.teachers import files
from mrd_jax.teachers.clip import ClipTeacher
from mrd_jax.teachers.text_tower import TextTower
from mrd_jax.zoo.registry import SYSTEMS
from mrd_jax.zoo.system import Hub, Page

# As `ClipTeacher` names itself: "user/model@commit (sha256 0123456789ab)".  The
# commit is cut short there, and the hub wants all of it: only the name is used.
_HUB_NAME = re.compile(r"([\w-][\w.-]*/[\w.-]+)(@\w+)?( \(sha256 \w+\))?")


class TextTowers:
  """The text towers of a command, each loaded once.

  Args:
    teacher: A `CLIPModel` that stands for every system's own; "" for none.
    weights: A file with a text tower, for systems whose own is not in the
      encoder's file; of one on the hub it takes the place.  None for none.
    tokenizer: Of `weights`; "" finds it.
    dtype: Of the matrix products.
    batch_size: Texts at a time on each device.
  """

  def __init__(
    self,
    *,
    teacher: str = "",
    weights: Path | None = None,
    tokenizer: str = "",
    dtype: str = "float32",
    batch_size: int = 64,
  ):
    self._teacher, self._weights = teacher, weights
    options = {"dtype": dtype, "batch_size": batch_size}
    self._clip = functools.cache(
      functools.partial(ClipTeacher.from_pretrained, **options)
    )
    self._tower = functools.cache(
      functools.partial(
        TextTower.from_file, tokenizer=tokenizer or None, **options
      )
    )

  def find(
    self, config: EncoderConfig, checkpoint: str
  ) -> ClipTeacher | TextTower | None:
    """Loads a tower: the teacher's that was given, or the encoder's own.

    An encoder's own is that of the `CLIPModel` that its embedding space names,
    or of its published system; None if it has neither.

    Args:
      config: Of the encoder.
      checkpoint: Where it was loaded from.

    Raises:
      BadInput: naming the file that is missing.
    """
    own = _HUB_NAME.fullmatch(config.embedding_space)
    name = self._teacher or (own[1] if own else "")
    if name:
      return self._clip(name)
    release = named.release_of(config)
    if release:
      tower = release.texts.tower
    elif config.system == "pointclip":
      tower = None  # any CLIP has both towers
    else:
      return None
    if isinstance(tower, str):
      return self._clip(tower)
    file = self._find_own(checkpoint) if tower is None else None
    if file:
      return file
    if self._weights:
      found = self._tower(self._weights)
      # Of several encoders' it is that of those that are as wide.
      if not isinstance(tower, Hub) or found.embed_dim == config.dim:
        return found
    system = SYSTEMS[config.system].NAME
    if isinstance(tower, Hub):
      repository = Repository(
        tower.repository,
        kind=f"a repository with {tower.file}",
        remedy="; fetch it where there is a network, and name it with "
        "--text-weights",
        first=tower.file,
        type=tower.kind,
      )
      return self._tower(repository.get(tower.file))
    if isinstance(tower, Page):
      raise BadInput(
        f"{system}'s texts are of {tower.file}, which {tower.address} links "
        "to: fetch it, and name it with --text-weights"
      )
    raise BadInput(
      f"{checkpoint} is a folder, and the text tower of {system} is in its "
      "published file: name that with --text-weights"
    )

  def _find_own(self, checkpoint: str) -> ClipTeacher | TextTower | None:
    """Loads the tower of the encoder's own file; None of a model folder."""
    reference = named.parse(checkpoint)
    file = named.find(reference)[0] if reference else Path(checkpoint)
    clip = clip_files.find(file)
    if clip and clip.name == files.CONFIG:
      return self._clip(str(clip.parent))
    return self._tower(file) if clip or file.is_file() else None
