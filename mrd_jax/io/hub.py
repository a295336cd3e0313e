"""Fetches the files of a model from the Hugging Face hub."""

from pathlib import Path

from mrd_jax.errors import BadInput

_CONFIG = "config.json"  # every model of ours and of transformers has one


def explain(
  problem: BaseException,
  kind: str,
  revision: str | None,
  file: str,
  otherwise: str,
) -> str:
  """Says in words why the hub refuses, or what failed instead.

  Args:
    problem: What the library raised.
    kind: "repository" or "dataset".
    revision: Which was asked for.
    file: Likewise.
    otherwise: What to add where the hub does not refuse.
  """
  from huggingface_hub import errors

  reasons = {
    errors.GatedRepoError: "its owners grant access one by one; ask for it on "
    "its page and log in with hf auth login",
    errors.RepositoryNotFoundError: f"there is no such {kind}, unless it is "
    "private: log in with hf auth login",
    errors.RevisionNotFoundError: f"there is no revision {revision!r}",
    errors.RemoteEntryNotFoundError: f"there is no file {file} in it",
    errors.HFValidationError: f"that is no name of a {kind}",
  }
  for error, reason in reasons.items():
    if isinstance(problem, error):
      return reason
  return " ".join(f"{type(problem).__name__}: {problem}".split()) + otherwise


class Repository:
  """A repository on the hub, through its cache, all files of one commit.

  Without network, or where the hub fails, the cache will do.

  Attributes:
    folder: Where the files are once they are fetched; its name is the commit.
    answers: Whether the hub did; otherwise there is only the cache.
  """

  def __init__(
    self,
    name: str,
    revision: str | None = None,
    kind: str = "a model",
    remedy: str = "",
    first: str = _CONFIG,
    type: str = "model",
  ):
    """Fetches the first file.

    Args:
      name: Of the repository, "user/model".
      revision: Branch, tag or commit; None is the main branch.
      kind: What messages call what it should be.
      remedy: What they recommend where the hub does not answer.
      first: A file that it must have.
      type: "model" or "dataset", as the hub calls it.

    Raises:
      BadInput: in a sentence that says why it cannot be had.
    """
    import huggingface_hub as hub

    self._name, self._asked, self._revision = name, revision, revision
    self._kind, self._remedy, self._type = kind, remedy, type
    self._problem: BaseException | None = None
    try:
      # Asked once: the library's own downloads repeat for minutes if there is
      # no network.
      hub.get_hf_file_metadata(
        hub.hf_hub_url(name, first, repo_type=type, revision=revision)
      )
    except Exception as error:  # those of its HTTP library, too
      self._problem = error
    path = self.get(first)
    self.folder = path.parents[first.count("/")]
    self._revision = self.folder.name
    self.answers = self._problem is None

  def get(self, file: str) -> Path:
    """Downloads a file, or finds it in the cache.

    Raises:
      BadInput: in a sentence that says why it cannot be had.
    """
    import huggingface_hub

    try:
      path = huggingface_hub.hf_hub_download(
        self._name,
        file,
        repo_type=self._type,
        revision=self._revision,
        local_files_only=self._problem is not None,
      )
    except Exception as error:
      problem, otherwise = error, self._remedy
      if self._problem:
        problem = self._problem
        otherwise = f"; {file} is not in the cache either{self._remedy}"
      reason = explain(problem, "repository", self._asked, file, otherwise)
      raise BadInput(
        f"{self._name} is neither a folder nor {self._kind} that could be "
        f"fetched from the Hugging Face hub: {reason}"
      ) from error
    return Path(path)

  def names(self) -> set[str]:
    """Lists the files: the hub's, or those in the cache if it fails."""
    from huggingface_hub import HfApi

    if self.answers:
      try:
        return {
          *HfApi().list_repo_files(
            self._name, repo_type=self._type, revision=self._revision
          )
        }
      except Exception as error:  # it answered a moment ago
        self._problem, self.answers = error, False
    return {
      path.relative_to(self.folder).as_posix()
      for path in self.folder.rglob("*")
      if path.is_file()
    }
