"""Finds shapes close to texts, images, shapes: python -m mrd_jax.search."""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from mrd_jax.cli import (
  Parser,
  add_checkpoint,
  add_columns,
  add_count,
  add_text_weights,
  add_up,
  exit_code,
  leave,
)
from mrd_jax.data.shape_files import SUFFIXES
from mrd_jax.errors import BadInput
from mrd_jax.io.files import held, lock_beside, write_json
from mrd_jax.io.terminal import say
from mrd_jax.metrics.table import columns
from mrd_jax.search.gallery import Gallery, open_gallery
from mrd_jax.search.index import index_path, open_index
from mrd_jax.search.nearest import Hits, Query, nearest


def main(argv: Sequence[str] | None = None) -> int:
  """Searches; returns the exit code.

  Returns:
    0, also if no shape reaches the threshold; 2 for bad arguments or input.
  """
  return exit_code(lambda: _search(_parser().parse_args(argv)))


def _search(args: argparse.Namespace) -> int:
  asked = [
    Query(kind, value)
    for kind in ("text", "image", "shape")
    for value in getattr(args, kind)
  ]
  if not asked:
    raise BadInput("nothing to look for: give --text, --image or --shape")
  if args.threshold is not None and not -1 <= args.threshold <= 1:
    raise BadInput(
      f"--threshold is {args.threshold:g}, must be a cosine, from -1 to 1"
    )
  with contextlib.ExitStack() as holding:
    for flag, suffix in (("json", ".json"), ("sheet", ".png")):
      if not (name := getattr(args, flag)):
        continue
      file = Path(name)
      if file.suffix != suffix or not file.parent.is_dir():
        raise BadInput(
          f"--{flag} is {file}, must be a file that ends in {suffix}, in a "
          "folder that exists"
        )
      holding.enter_context(held(f"--{flag}", lock_beside(file)))
    return _find(args, asked)


def _find(args: argparse.Namespace, asked: Sequence[Query]) -> int:
  """Prints, and perhaps writes and draws, what is closest to what is asked."""
  from mrd_jax.encoder.encoder import load_encoder  # brings JAX, takes seconds
  from mrd_jax.encoder.text_towers import TextTowers
  from mrd_jax.search import queries

  gallery = open_gallery(args.index)
  index = None if args.exact or len(asked) > 1 else open_index(gallery)
  encoder = load_encoder(args.checkpoint, args.which)
  kinds = [query.kind for query in asked]
  notes = queries.check_gallery(gallery, encoder, args.checkpoint, kinds)
  if len(asked) > 1 and not args.exact and index_path(gallery.path).exists():
    notes.append(
      "the index finds what is close to one query; for several, all "
      f"{len(gallery):,} embeddings are compared"
    )
  towers = TextTowers(
    teacher=args.teacher or "",
    weights=args.text_weights,
    tokenizer=args.tokenizer or "",
    dtype="bfloat16",
    batch_size=1,
  )
  embedded, more = queries.embed_queries(
    asked,
    encoder,
    args.checkpoint,
    towers,
    up=args.up,
    columns=args.columns,
    normalize=gallery.source["normalize"],
  )
  for note in [*notes, *more]:
    say(f"note: {note}", error=True)
  hits = nearest(
    gallery,
    embedded,
    kinds,
    top=args.top,
    threshold=args.threshold,
    index=index,
  )
  say(*_table(gallery, asked, hits))
  if len(hits.rows) < args.top:
    say(_shortage(len(gallery), hits, args.threshold), error=True)
  if args.json:
    files = [
      {
        "rank": rank + 1,
        "score": float(hits.score[rank]),
        "cosines": hits.cosine[rank].tolist(),
        "row": int(row),
        "file": str(gallery.files[row]),
      }
      for rank, row in enumerate(hits.rows)
    ]
    asked_for = [query._asdict() for query in asked]
    whole = {"index": args.index, "queries": asked_for, "hits": files}
    write_json(Path(args.json), whole)
  if args.sheet:
    from mrd_jax.search.sheet import draw_hits

    given = {"up": args.up, "columns": args.columns}
    draw_hits(gallery, asked, hits, Path(args.sheet), **given)
  return 0


def _shortage(count: int, hits: Hits, threshold: float | None) -> str:
  """Says why there are fewer hits than were asked for, of `count` shapes."""
  among, remedy = f"{count:,} shapes", ""
  if hits.compared < count:
    among = f"the {hits.compared:,} candidates of the index, of {among} in all,"
    remedy = "; --exact compares every shape"
  what = "pass" if threshold is None else f"reach --threshold {threshold:g}"
  return f"{len(hits.rows)} of {among} {what}{remedy}"


def _table(gallery: Gallery, asked: Sequence[Query], hits: Hits) -> list[str]:
  """Lines up rank, score, the cosine with each of several queries, and file."""
  kinds = [f"{q.kind} {i}" for i, q in enumerate(asked, 1)]
  if len(asked) == 1:
    kinds = []  # its cosine is the score
  rows = [["rank", "score", *kinds, "file"]]
  for rank, row in enumerate(hits.rows):
    cosines = [f"{c:.4f}" for c in hits.cosine[rank]] if kinds else []
    file = str(gallery.files[row])
    rows.append([f"{rank + 1}", f"{hits.score[rank]:.4f}", *cosines, file])
  return columns(rows, ">" * (2 + len(kinds)) + "<")


def _parser() -> argparse.ArgumentParser:
  parser = Parser(
    prog="python -m mrd_jax.search",
    description="Finds the shapes of a gallery that are closest to texts, "
    "images and shapes; to all of them, if there are several.",
  )
  add_checkpoint(parser)
  add = parser.add_argument
  add(
    "--index",
    required=True,
    metavar="FILE.npz",
    help="the gallery, of python -m mrd_jax.embed; if FILE.faiss is beside it "
    "(embed --index), that is used for a single query",
  )
  for kind, metavar, words in (
    ("text", "WORDS", "words, as the teacher reads them"),
    ("image", "FILE", "a picture, as the teacher sees it"),
    ("shape", "FILE", f"a point cloud or a mesh: {', '.join(SUFFIXES)}"),
  ):
    add(
      f"--{kind}",
      type=str,
      action="append",
      default=[],
      metavar=metavar,
      help=f"{words}; can be repeated",
    )
  add(
    "--teacher",
    metavar="CLIP",
    help="the CLIP model of --text and --image, a folder or user/model on the "
    "Hugging Face hub (default: what the checkpoint was trained with)",
  )
  add_text_weights(parser)
  add_up(parser, "--shape")
  add_columns(parser)
  add_count(parser, "--top", 10, "shapes to find")
  add(
    "--threshold",
    type=float,
    metavar="T",
    help="only shapes whose cosine with every query is T or more",
  )
  add("--exact", action="store_true", help="compare all, even with an index")
  add("--json", metavar="FILE.json", help="file to create with the same hits")
  add("--sheet", metavar="FILE.png", help="picture to create of the hits")
  return parser


if __name__ == "__main__":
  leave(main())
