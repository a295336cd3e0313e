"""Finds the files of a CLIP model, in a folder or on the Hugging Face hub."""

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

from mrd_jax.errors import BadInput
from mrd_jax.io import hub
from mrd_jax.io.files import read_json

CONFIG = "config.json"
# The second is what newer versions of transformers write.
PREPROCESSORS = "preprocessor_config.json", "processor_config.json"
WEIGHTS = "model.safetensors"
INDEX = WEIGHTS + ".index.json"
TOKENIZER = (
  "tokenizer.json",
  "vocab.json",
  "merges.txt",
  "tokenizer_config.json",
  "special_tokens_map.json",
)
_NEEDED = (
  f"{CONFIG}, {WEIGHTS} (or its shards with {INDEX}), {PREPROCESSORS[0]} and the "
  "tokenizer (tokenizer.json, or vocab.json with merges.txt)"
)


def reason(error: BaseException) -> str:
  """Says in one line what transformers raised, without advice to run code."""
  words = " ".join(f"{type(error).__name__}: {error}".split())
  if "trust_remote_code" not in words:
    return words
  return (
    "it brings code of its own, which is never run; name a model of a kind "
    "that transformers has itself"
  )


def find(source: str, revision: str | None) -> tuple[Path, str]:
  """Finds a model folder, or fetches it from the hub.

  Args:
    source: A folder, or the name of a repository, "user/model".
    revision: Branch, tag or commit of the repository; None is its main branch.

  Returns:
    The folder, which holds all that a teacher needs, and what to call the
    model: the folder's own name, or "user/model@commit".

  Raises:
    BadInput: naming the file that is missing, and how to get it.
  """
  folder = Path(source)
  if folder.is_dir():
    if revision is not None:
      raise BadInput(
        f"revision is {revision!r}, but {source} is a folder, which has none; "
        "leave it out"
      )
    name = folder.resolve().name
  elif folder.exists():
    raise BadInput(f"{source} is a file; name the folder that holds {_NEEDED}")
  else:
    folder = _fetch(source, revision)
    name = f"{source}@{folder.name[:12]}"
  for file in (CONFIG, preprocessor(folder).name):
    if not (folder / file).is_file():
      raise BadInput(f"{folder / file} does not exist; a model is {_NEEDED}")
  if not (folder / TOKENIZER[0]).is_file():
    for file in ("vocab.json", "merges.txt"):
      if not (folder / file).is_file():
        raise BadInput(
          f"{folder / file} does not exist, and no tokenizer.json either; "
          f"a model is {_NEEDED}"
        )
  return folder, name


def preprocessor(folder: Path) -> Path:
  """Reads the config of the image processor in a model folder."""
  first, second = (folder / name for name in PREPROCESSORS)
  return second if second.is_file() and not first.is_file() else first


def fingerprint(model: str, folder: Path, names: Iterable[str]) -> str:
  """Computes the SHA-256 of what a model is and of files beside it.

  Args:
    model: Says what it is.
    folder: Of the files.
    names: Theirs; those that are not there are left out.
  """
  whole = hashlib.sha256(model.encode())
  for name in names:
    if (folder / name).is_file():
      whole.update(name.encode() + (folder / name).read_bytes())
  return whole.hexdigest()


def find_weights(folder: Path) -> list[Path]:
  """Finds the .safetensors files of a model folder.

  Raises:
    BadInput: naming the one that is missing, or why others are not read.
  """
  if (folder / WEIGHTS).is_file():
    return [folder / WEIGHTS]
  if (folder / INDEX).is_file():
    shards = [folder / name for name in _shards(folder / INDEX)]
    for shard in shards:
      if not shard.is_file():
        raise BadInput(
          f"{shard} does not exist, though {INDEX} lists it; fetch it and put "
          "it there"
        )
    return shards
  names = {path.name for path in folder.iterdir()}
  raise BadInput(_no_weights(str(folder / WEIGHTS), names))


def _no_weights(wanted: str, names: Collection[str]) -> str:
  """The sentence for a model without the weights that we read."""
  if any(name.startswith("open_clip_model") for name in names):
    return (
      f"{wanted} does not exist; open_clip_model.safetensors has open_clip's "
      "own names, which are not read: fetch model.safetensors, or the shards "
      f"with {INDEX}, which the same repository holds for transformers"
    )
  if any(name.startswith("pytorch_model") for name in names):
    return (
      f"{wanted} does not exist, and pytorch_model.bin is a pickle, which is a "
      "program and is not read: name a revision that has safetensors "
      "(refs/pr/NUMBER of the hub's conversion), or convert it where PyTorch "
      "is, transformers.CLIPModel.from_pretrained(...).save_pretrained(folder)"
      ", and put the model.safetensors that this writes there"
    )
  return f"{wanted} does not exist; a model is {_NEEDED}, in one folder"


def _shards(index: Path) -> list[str]:
  try:
    places = read_json(index)["weight_map"]
    shards = sorted({str(name) for name in places.values()})
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise BadInput(
      f"{index} is not an index of safetensors ({error!r}); fetch it again"
    ) from error
  for name in shards:
    if Path(name).name != name or not name.endswith(".safetensors"):
      raise BadInput(
        f"{index}: weight_map names {name!r}, which is no .safetensors file "
        "of this folder"
      )
  return shards


def _fetch(source: str, revision: str | None) -> Path:
  """Downloads a model, or finds it in the cache; see `find`."""
  repository = hub.Repository(
    source,
    revision,
    "a CLIP model",
    f"; where there is a network, fetch {_NEEDED}, put them into one folder, "
    "and name that folder instead",
  )
  names = repository.names()
  for name in sorted(names & {*PREPROCESSORS, *TOKENIZER}):
    repository.get(name)
  if INDEX in names and WEIGHTS not in names:
    for shard in _shards(repository.get(INDEX)):
      repository.get(shard)
  elif WEIGHTS in names or not repository.answers:
    repository.get(WEIGHTS)
  else:
    raise BadInput(_no_weights(f"{source}: {WEIGHTS}", names))
  return repository.folder
