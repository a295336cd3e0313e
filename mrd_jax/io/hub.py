"""What everything that fetches models from the Hugging Face hub shares."""


def ask(repository: str, file: str, revision: str | None) -> Exception | None:
  """Asks once whether a file can be had; returns what speaks against it.

  The library's own downloads repeat for minutes if there is no network.
  """
  import huggingface_hub as hub

  try:
    hub.get_hf_file_metadata(
      hub.hf_hub_url(repository, file, revision=revision)
    )
  except Exception as error:  # those of its HTTP library, too
    return error
  return None


def known_reason(
  problem: BaseException, revision: str | None, file: str
) -> str | None:
  """Why the hub refuses, in words; None if that is not it."""
  from huggingface_hub import errors

  reasons = {
    errors.RepositoryNotFoundError: "there is no such repository, unless it "
    "is private: log in with hf auth login",
    errors.RevisionNotFoundError: f"there is no revision {revision!r}",
    errors.RemoteEntryNotFoundError: f"there is no file {file} in it",
    errors.HFValidationError: "that is no name of a repository",
  }
  found = (why for kind, why in reasons.items() if isinstance(problem, kind))
  return next(found, None)
