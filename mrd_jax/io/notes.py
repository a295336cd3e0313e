"""Says what was lost on reading files: counted by kind, once a job."""

import dataclasses
from collections.abc import Iterable

_NAMED = 3  # files of a kind


@dataclasses.dataclass(frozen=True)
class Note:
  """What was lost on reading one file.

  Attributes:
    kind: A few words, the same for all of a kind: what is counted.
    detail: The whole story.
    file: Of which file; a reader leaves it to its caller.
  """

  kind: str
  detail: str
  file: str = ""


def count_notes(notes: Iterable[Note]) -> list[str]:
  """Returns a sentence for each kind: how many files, and the first of them."""
  kinds: dict[str, dict[str, str]] = {}
  for note in notes:
    kinds.setdefault(note.kind, {}).setdefault(note.file, note.detail)
  sentences = []
  for kind, details in kinds.items():
    first = [f"{f} ({d})" for f, d in list(details.items())[:_NAMED]]
    more = ", ..." if len(details) > _NAMED else ""
    files = "file" if len(details) == 1 else "files"
    sentences.append(
      f"{kind}: {len(details):,} {files}, {', '.join(first)}{more}"
    )
  return sentences
