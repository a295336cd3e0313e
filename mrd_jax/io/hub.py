"""Fetches the files of a model from the Hugging Face hub."""

from pathlib import Path

from mrd_jax.errors import BadInput

_CONFIG = "config.json"  # every model has one


class Repository:
  """A model on the hub, through the library's cache, all files of one commit.

  Without network, or where the hub fails, the cache will do.

  Attributes:
    folder: Where the files are once they are fetched; its name is the commit.
    answers: Whether the hub did; otherwise there is only the cache.
  """

  def __init__(
    self,
    name: str,
    revision: str | None,
    kind: str = "a model",
    remedy: str = "",
  ):
    """Fetches config.json.

    Args:
      name: Of the repository, "user/model".
      revision: Branch, tag or commit; None is the main branch.
      kind: What messages call what it should be.
      remedy: What they recommend where the hub does not answer.

    Raises:
      BadInput: in a sentence that says why it cannot be had.
    """
    import huggingface_hub as hub

    self._name, self._asked, self._revision = name, revision, revision
    self._kind, self._remedy = kind, remedy
    self._problem: BaseException | None = None
    try:
      # Asked once: the library's own downloads repeat for minutes if there is
      # no network.
      hub.get_hf_file_metadata(hub.hf_hub_url(name, _CONFIG, revision=revision))
    except Exception as error:  # those of its HTTP library, too
      self._problem = error
    self.folder = self.get(_CONFIG).parent
    self._revision = self.folder.name
    self.answers = self._problem is None

  def get(self, file: str) -> Path:
    """Downloads a file, or finds it in the cache.

    Raises:
      BadInput: in a sentence that says why it cannot be had.
    """
    import huggingface_hub
    from huggingface_hub import errors

    try:
      path = huggingface_hub.hf_hub_download(
        self._name,
        file,
        revision=self._revision,
        local_files_only=self._problem is not None,
      )
    except Exception as error:
      problem = self._problem or error
      reasons = {
        errors.RepositoryNotFoundError: "there is no such repository, unless "
        "it is private: log in with hf auth login",
        errors.RevisionNotFoundError: f"there is no revision {self._asked!r}",
        errors.RemoteEntryNotFoundError: f"there is no file {file} in it",
        errors.HFValidationError: "that is no name of a repository",
        Exception: " ".join(f"{type(problem).__name__}: {problem}".split())
        + (f"; {file} is not in the cache either" if self._problem else "")
        + self._remedy,
      }
      reason = next(v for k, v in reasons.items() if isinstance(problem, k))
      raise BadInput(
        f"{self._name} is neither a folder nor {self._kind} that could be "
        f"fetched from the Hugging Face hub: {reason}"
      ) from error
    return Path(path)

  def names(self) -> set[str]:
    """Lists the files: the hub's, or those in the cache if it fails."""
    import huggingface_hub

    if self.answers:
      try:
        return {
          *huggingface_hub.HfApi().list_repo_files(
            self._name, revision=self._revision
          )
        }
      except Exception as error:  # it answered a moment ago
        self._problem, self.answers = error, False
    return {
      path.relative_to(self.folder).as_posix()
      for path in self.folder.rglob("*")
      if path.is_file()
    }
