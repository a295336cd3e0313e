"""Where the files of a CLIP model are: a folder, or the Hugging Face hub."""

import json
from pathlib import Path

from mrd_jax.errors import BadInput
from mrd_jax.io import hub

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
  """The config of the image processor in a model folder."""
  first, second = (folder / name for name in PREPROCESSORS)
  return second if second.is_file() and not first.is_file() else first


def find_weights(folder: Path) -> list[Path]:
  """The .safetensors files of a model folder.

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
  raise BadInput(_no_weights(str(folder / WEIGHTS), folder))


def _no_weights(wanted: str, folder: Path | None) -> str:
  """The sentence for a model without the weights that we read."""
  names = [path.name for path in folder.iterdir()] if folder else []
  convert = (
    "convert it where PyTorch is, transformers.CLIPModel.from_pretrained(...)"
    ".save_pretrained(folder), and put the model.safetensors that this writes "
    "there"
  )
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
      f"(refs/pr/NUMBER of the hub's conversion), or {convert}"
    )
  if folder is None:
    return (
      f"{wanted} does not exist, nor does {INDEX} (a pytorch_model.bin is a "
      "pickle and is not read): name a revision that has safetensors "
      f"(refs/pr/NUMBER of the hub's conversion), or {convert}"
    )
  return f"{wanted} does not exist; a model is {_NEEDED}, in one folder"


def _shards(index: Path) -> list[str]:
  try:
    places = json.loads(index.read_text())["weight_map"]
    shards = sorted({str(name) for name in places.values()})
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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


def _fetch(repository: str, revision: str | None) -> Path:
  """Downloads a model, or finds it in the cache; see `find`."""
  import huggingface_hub
  from huggingface_hub import errors

  asked = revision
  problem = hub.ask(repository, CONFIG, revision)  # unless the cache has it

  def get(name: str) -> Path:
    file = huggingface_hub.hf_hub_download(
      repository,
      name,
      revision=revision,
      local_files_only=problem is not None,
    )
    return Path(file)

  def has(name: str) -> bool:
    try:
      get(name)
    except errors.EntryNotFoundError:
      return False
    return True

  name = CONFIG
  try:
    folder = get(CONFIG).parent
    revision = folder.name  # the commit, so that all files are of one
    for name in (*PREPROCESSORS, *TOKENIZER):
      has(name)
    name = WEIGHTS
    if not has(WEIGHTS):
      if problem is None and not has(INDEX):
        raise BadInput(_no_weights(f"{repository}: {WEIGHTS}", None))
      for shard in _shards(get(INDEX)):
        name = shard
        get(name)
  except BadInput:
    raise
  except Exception as error:
    problem = problem or error
    if reason := hub.known_reason(problem, asked, name):
      raise BadInput(
        f"{repository} is neither a folder nor a CLIP model that could be "
        f"fetched from the Hugging Face hub: {reason}"
      ) from error
    words = " ".join(f"{type(problem).__name__}: {problem}".split())
    raise BadInput(
      f"{repository}: {name} is neither in a folder of this name nor in the "
      f"cache, and the Hugging Face hub did not answer ({words}); where there "
      f"is a network, fetch {_NEEDED}, put them into one folder, and name that "
      "folder instead"
    ) from error
  return folder
