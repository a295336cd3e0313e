"""Measures encoders on test sets: python -m mrd_jax.evaluate."""

import argparse
import contextlib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from mrd_jax import cli
from mrd_jax.errors import BadInput
from mrd_jax.io.terminal import say


def main(argv: Sequence[str] | None = None) -> int:
  """Evaluates; returns the exit code (2 for bad input)."""
  args, overrides = _parser().parse_known_args(argv)
  return cli.joint_exit_code(args, lambda: _evaluate(args, overrides))


def _evaluate(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  # After --help, which needs no JAX.
  import jax

  from mrd_jax.encoder import named as encoders_by_name
  from mrd_jax.encoder.encoder import load_encoder
  from mrd_jax.evaluate import results, settings, suites, table_1
  from mrd_jax.evaluate.evaluator import Evaluator
  from mrd_jax.finetune.train import finetune
  from mrd_jax.parallel.agree import first_says

  frozen = [x for x in args.suite if x not in ("finetune", "table1")]
  for suite in frozen:
    if suite not in suites.SPLITS:
      raise BadInput(
        f"--suite {suite}: suites are {', '.join(suites.SPLITS)}, table1, "
        "finetune"
      )
  if args.captions and "retrieval" not in args.suite:
    raise BadInput("--captions is for the suite retrieval")
  if {*args.suite} != {"finetune"} and not args.data:
    raise BadInput("--data is missing: name prepared datasets")
  recipes = _recipes(args, overrides)
  named = dict(args.split or ())
  standards = table_1.SUITES if "table1" in args.suite else {}
  if odd := named.keys() - {*args.suite, *standards}:
    raise BadInput(f"--split {odd.pop()}=...: no such suite in --suite")
  first_process = jax.process_index() == 0  # the one that tells and writes
  # All are found before the first is run.
  where = {suite: suites.find(suite, args.data, named) for suite in frozen}
  of_table = suites.find_some(standards, args.data or (), named)
  options, texts = _options(args), _class_texts(args)
  for checkpoint in args.checkpoint:
    if reference := encoders_by_name.parse(checkpoint):
      encoders_by_name.find(reference)
  rows = results.read_rows(args.output)
  names = results.short_names(args.checkpoint, rows)
  for name, checkpoint in zip(names, args.checkpoint, strict=True):
    encoder = load_encoder(checkpoint, args.which, dtype=args.dtype)
    row = results.row_of(rows, name, checkpoint, args.which, encoder)
    evaluator = Evaluator(encoder, options)
    tasks: list[tuple[str, str, suites.Found, settings.Setting | None]] = [
      (suite, suite, found, None) for suite, found in where.items()
    ]
    for suite, found in of_table.items():
      split, standard = found.splits[0], args.protocol or "own"
      if not split.startswith(standards[suite]):
        split = standards[suite]
      setting = settings.choose(
        standard, encoder, split, checkpoint, texts, options.protocol
      )
      tasks.append((table_1.key(suite, standard), suite, found, setting))
    for key, suite, found, setting in tasks:
      if first_process:
        say(f"{name}: {key} on {','.join(found.splits)}")
      result = evaluator(suite, found, setting)
      if not first_process:
        continue
      results.add_result(row, key, found, result)
      if result.confusion:
        file = f"confusion_{key.replace(' ', '_')}.csv"
        results.write_confusion(args.output / name / file, *result.confusion)
      results.write(args.output, rows)  # so that a kill loses one suite
    for recipe, config in recipes.items():
      workdir = args.output / name / f"finetune_{recipe}"
      found = finetune(config, checkpoint, workdir, which=args.which)
      # It is None on all processes but the first.
      if not first_says(found is not None):
        if first_process:
          say("asked to stop; repeat the command to go on", error=True)
        return 1
      if found is not None:
        results.add_finetuning(row, recipe, found)
        results.write(args.output, rows)
  if first_process:
    say("", *results.tabulate(rows).split("\n"))
    say(f"written to {args.output / 'results.json'}")
  return 0


def _recipes(args: argparse.Namespace, overrides: Sequence[str]) -> dict:
  """Reads the configs of --finetune, by their names."""
  from mrd_jax.config.finetuning import Config

  if ("finetune" in args.suite) != bool(args.finetune):
    raise BadInput(
      "suite finetune and --finetune FILE, such as "
      "configs/finetune/scanobjectnn_pb_t50_rs.py, need each other"
    )
  if overrides and not args.finetune:
    raise BadInput(f"unknown argument: {overrides[0]}")
  return {
    Path(path).stem: Config.from_dict(cli.load_config(path, overrides))
    for path in args.finetune or ()
  }


def _options(args: argparse.Namespace):
  from mrd_jax.evaluate.evaluator import Options
  from mrd_jax.evaluate.protocol import Protocol

  of_names = of_texts = None
  teacher = ""
  if args.teacher:
    from mrd_jax.teachers.clip import ClipTeacher
    from mrd_jax.teachers.prompts import class_features, read_templates

    templates = read_templates(args.templates, args.templates_key)
    clip = ClipTeacher.from_pretrained(args.teacher, dtype=args.dtype)
    of_names = functools.partial(
      class_features, clip, templates=templates, keep_underscores=args.raw_names
    )
    if args.captions:
      of_texts = functools.cache(clip.text_features)  # for every checkpoint
    teacher = f"{args.teacher}, {len(templates)} templates"
    teacher += f" of {args.templates}" if args.templates else ""
  elif args.captions or (
    (args.templates or args.templates_key or args.raw_names)
    and args.protocol != "ours"
  ):
    raise BadInput(
      "--templates, --templates-key, --raw-names and --captions need a --teacher"
    )
  return Options(
    protocol=Protocol(args.points, args.colour),
    batch_size=args.batch_size,
    shots=args.shots,
    repeats=args.repeats,
    regularisation=args.regularisation,
    class_features=of_names,
    text_features=of_texts,
    teacher=teacher,
  )


def _class_texts(args: argparse.Namespace):
  from mrd_jax.encoder.text_towers import TextTowers
  from mrd_jax.evaluate.class_texts import ClassTexts
  from mrd_jax.teachers.prompts import read_templates
  from mrd_jax.zoo.pointclip import read_prompts

  for flag in ("protocol", "text_weights", "tokenizer", "prompts"):
    if getattr(args, flag) and "table1" not in args.suite:
      raise BadInput(
        f"--{flag.replace('_', '-')} is for the suite table1, whose texts and "
        "protocols are the systems' own"
      )
  towers = TextTowers(
    teacher=args.teacher or "",
    weights=args.text_weights,
    tokenizer=args.tokenizer or "",
    dtype=args.dtype,
  )
  prompts = read_prompts(args.prompts) if args.prompts else {}
  templates = read_templates(args.templates, args.templates_key)
  return ClassTexts(towers, prompts, templates, keep_underscores=args.raw_names)


def _split(text: str) -> tuple[str, tuple[str, ...]]:
  suite, equals, splits = text.partition("=")
  if not (suite and equals and all(splits.split(","))):
    raise argparse.ArgumentTypeError(
      f"expected SUITE=SPLIT or SUITE=SPLIT,SPLIT, not {text!r}"
    )
  return suite, tuple(splits.split(","))


def _number(words: str, fits: Callable[[float], bool]):
  """Makes the type of an argument that is a number with a range."""

  def number(text: str) -> float:
    with contextlib.suppress(ValueError):
      if fits(value := float(text)):
        return value
    raise argparse.ArgumentTypeError(f"expected a number {words}")

  return number


def _parser() -> argparse.ArgumentParser:
  parser = cli.Parser(
    prog="python -m mrd_jax.evaluate",
    description="Measures encoders on test sets and prints tables, beside the "
    "paper's rows where the test set is the paper's.",
    allow_abbrev=False,
  )
  cli.add_checkpoint(
    parser,
    "runs' folders, model folders, files, and names of published models as "
    "NAME[@REVISION] or NAME:FILE (mrd models lists them): a row each",
    nargs="+",
    action="extend",
  )
  add = parser.add_argument
  add(
    "--suite",
    required=True,
    type=lambda text: tuple(dict.fromkeys(text.split(","))),
    metavar="NAME[,NAME...]",
    help="modelnet40, scanobjectnn, objaverse_lvis, zero_shot (any labelled "
    "split), retrieval, relation_gap, linear_probe, few_shot, finetune; table1: "
    "the first three, each system by its own protocol, beside published rows",
  )
  add(
    "--data",
    nargs="+",
    action="extend",
    type=cli.path,
    metavar="DIR",
    help="prepared datasets; a suite takes the first that has its split",
  )
  add("--output", required=True, type=cli.path, metavar="DIR")
  add(
    "--split",
    type=_split,
    action="append",
    metavar="SUITE=SPLIT[,SPLIT]",
    help="where a suite's shapes are, for other names than prepare gives; "
    "several are joined, and are train and test for linear_probe",
  )
  add(
    "--finetune",
    action="append",
    metavar="FILE",
    help="for the suite finetune: a config of configs/finetune, which says "
    "what data; repeatable; --config.FIELD=VALUE changes all of them",
  )
  add(
    "--points",
    type=cli.at_least(1),
    metavar="N",
    help="draw N points of every cloud, with replacement where fewer are "
    "stored (default: as stored, at most what the encoder was trained with)",
  )
  add(
    "--colour",
    type=_number("from 0 to 1", lambda x: 0 <= x <= 1),
    metavar="GREY",
    help="this grey for all points, such as .4 or .392 (default: as stored)",
  )
  add(
    "--teacher",
    metavar="CLIP",
    help="a Hugging Face CLIP, to make the features of class names and "
    "captions (default: those stored with the dataset)",
  )
  add("--templates", metavar="FILE", help="prompts (default: ours)")
  add("--templates-key", metavar="KEY", help="which list of the file")
  add("--raw-names", action="store_true", help="class names keep underscores")
  group = parser.add_argument_group("the suite table1")
  group.add_argument(
    "--protocol",
    choices=("own", "ours"),
    help="own: clouds, texts, views and weights as the authors of each system "
    "have them; ours: one protocol for all (default: own)",
  )
  cli.add_text_weights(group)
  group.add_argument(
    "--prompts",
    type=cli.path,
    metavar="best_param.py",
    help="PointCLIP V2's sentences and view weights, read as data",
  )
  add(
    "--captions",
    action="store_true",
    help="retrieval by captions_SPLIT.csv (prepare captions) instead of the "
    "stored texts",
  )
  add(
    "--shots",
    type=lambda text: tuple(map(cli.at_least(1), text.split(","))),
    default=(1, 2, 4, 8, 16),
    metavar="N,N",
    help="of few_shot (default: 1,2,4,8,16)",
  )
  cli.add_count(parser, "--repeats", 10, "draws of few_shot")
  add(
    "--regularisation",
    type=_number("above 0", lambda x: 0 < x < float("inf")),
    default=1.0,
    metavar="C",
    help="C of the probes' logistic regression (default: 1)",
  )
  cli.add_count(parser, "--batch-size", 64, "clouds at a time")
  add("--dtype", choices=("float32", "bfloat16"), default="float32")
  cli.add_joining(parser)
  return parser


if __name__ == "__main__":
  cli.leave(main())
