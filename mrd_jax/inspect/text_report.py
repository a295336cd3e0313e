"""Prints the report of an inspection."""

from collections.abc import Iterator, Mapping
from typing import Any

from mrd_jax.io.terminal import printable

_UNITS = ("bytes", "KB", "MB", "GB", "TB")
# Title, key of the summary, and what is said of it.
_NUMBERS = (
  (
    "colours",
    "colors",
    "mean {mean[0]:.2f} {mean[1]:.2f} {mean[2]:.2f}; 0.4 grey {grey:.1%}, of "
    "one colour {constant:.1%}",
  ),
  (
    "classes",
    "classes",
    "{named:,}, of which {empty:,} empty, the others with {fewest:,} to "
    "{most:,} shapes; {unlabelled:,} shapes without a label",
  ),
  (
    "teacher",
    "alignment",
    "image -> text R@1 {image_to_text_r1:.1%}, text -> image R@1 "
    "{text_to_image_r1:.1%} of {pairs:,} pairs (chance {chance:.2%}); cosine "
    "{cosine_matched:.3f} matched, {cosine_all:.3f} all",
  ),
  (
    "zero-shot",
    "zero_shot",
    "images against class names: top-1 {top1:.1%} of {shapes:,} shapes (chance "
    "{chance:.2%})",
  ),
)


def text_report(report: Mapping[str, Any]) -> str:
  """Prints the report that `run.inspect_dataset` made, for a reader."""
  lines = [
    f"{report['name']} in {report['data']}",
    f"teacher: {report['teacher']}; features of width {report['embed_dim']}; "
    f"schema {report['schema']}",
  ]
  for split, summary in report["splits"].items():
    lines += ["", *_split(split, summary)]
  lines += ["", *_duplicates(report)]
  for title in ("notes", "warnings"):
    if texts := [finding["text"] for finding in report[title]]:
      words = title if len(texts) > 1 else title[:-1]
      lines += ["", f"{len(texts)} {words}:", *(f"- {text}" for text in texts)]
  if not report["warnings"]:
    lines += ["", "no warnings"]
  return "\n".join(map(printable, lines))


def _split(split: str, of: Mapping[str, Any]) -> Iterator[str]:
  size = of["bytes"]
  yield (
    f"{split}: {of['records']:,} records, {_bytes(size['disk'])}; one takes "
    f"{_bytes(size['disk_per_record'])} on disk, "
    f"{_bytes(size['memory_per_record'])} in memory"
  )
  counted = _of(of["counted"], of["records"])
  measured = _of(of["measured"], of["records"])
  yield _row("looked at", f"{counted} counted, {measured} measured")
  sources = (f"{k or '(unnamed)'} {v:,}" for k, v in of["collections"].items())
  yield _row("sources", ", ".join(sources))
  for name in ("points", "images", "texts"):
    numbers = "{min:,.0f} / {median:,.10g} / {max:,.0f}".format(**of[name])
    without = f"without_{name[:-1]}"
    missing = f"; without: {of[without]:.1%}" if without in of else ""
    yield _row(name, f"{numbers} a shape (min / median / max){missing}")
  for kind, found in of["features"].items():
    numbers = " / ".join(
      "not finite" if value is None else f"{value:.4g}"
      for value in found["norm"].values()
    )
    of_what = f"(min / mean / max of {found['count']:,})"
    yield _row("norm", f"{kind}: {numbers} {of_what}")
  for title, key, words in _NUMBERS:
    if found := of[key]:
      yield _row(title, words.format(**found))
  if of["up_axis"]:
    found = ", ".join(
      f"{collection or '(unnamed)'} {up['axis']} ({up['confidence']:.0%} sure)"
      for collection, up in of["up_axis"].items()
    )
    yield _row("up axis", f"as it stands: {found}")


def _duplicates(report: Mapping[str, Any]) -> Iterator[str]:
  """Says what was searched, also where nothing was found."""
  yield "duplicates (same id, or same points in any order):"
  splits = report["splits"]
  for split, found in report["duplicates"]["within"].items():
    looked_at = _of(splits[split]["counted"], splits[split]["records"])
    yield _row(split, f"{found['shapes']:,} repeated; searched {looked_at}")
  for found in report["duplicates"]["across"]:
    line = f"{found['shapes']:,} shared"
    if found["detectable"] > 1:
      line += (
        "; not all were searched: a hidden overlap of "
        f"{found['detectable']:,} shapes would have shown with a chance of "
        "95 %, use --full for certainty"
      )
    yield _row(f"{found['train']} and {found['evaluation']}", line)


def _row(title: str, text: str) -> str:
  return f"  {title:<10} {text}"


def _of(part: int, whole: int) -> str:
  if part == whole:
    return f"all {whole:,}"
  return f"{part:,} of {whole:,} (drawn at random)"


def _bytes(count: float) -> str:
  for unit in _UNITS:
    if count < 1000 or unit == _UNITS[-1]:
      break
    count /= 1000
  return f"{count:.3g} {unit}"
