"""What the command lines of all verbs share."""

import argparse
import importlib
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
from runs import REPOSITORY, output_of

from mrd_jax import cli, main
from mrd_jax.config import finetuning, pretraining
from mrd_jax.config.__main__ import PAGE, make_page
from mrd_jax.config.fields import describe
from mrd_jax.errors import INTERRUPTED, BadInput, RunFailed
from mrd_jax.finetune import __main__ as finetune


@pytest.mark.parametrize(
  ("verb", "kind"), [(main, pretraining), (finetune, finetuning)]
)
def test_help_lists_every_field(verb, kind, capsys):
  with pytest.raises(SystemExit) as ended:
    verb.main(["--help"])
  assert ended.value.code == 0
  text = capsys.readouterr().out
  words = " ".join(text.split())
  for item in describe(kind.Config):
    star = " *" if item.may_change else ""
    default = f"[{item.default!r}]{star}"
    assert f"\n  {item.name}: {item.values} {default}\n" in text
    assert item.why in words


@pytest.mark.parametrize("verb", ["main", "finetune"])
def test_help_of_a_run_needs_no_jax(verb):
  script = (
    f"import sys; sys.argv = ['mrd', {verb!r}, '--help']\n"
    "from mrd_jax.cli import main\n"
    "try: main()\nfinally: assert 'jax' not in sys.modules"
  )
  assert "--workdir DIR" in output_of(script)


def test_the_page_of_all_fields_is_current():
  assert PAGE.read_text() == make_page(), "run python -m mrd_jax.config"


def parsers(verb, monkeypatch):
  """That of a verb, and those of its kinds."""
  name = f"mrd_jax.{cli.VERBS[verb]}"
  if verb not in ("main", "models"):  # which are no folders
    name += ".__main__"
  made = []

  def parse(parser, *_):
    made.append(parser)
    sys.exit(2)

  with monkeypatch.context() as patch, pytest.raises(SystemExit):
    patch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
    importlib.import_module(name).main([])
  for action in made[0]._actions:
    if isinstance(action, argparse._SubParsersAction):
      made = [*action.choices.values()]
  return made


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_argument_refuses_to_be_empty(verb, monkeypatch, capsys):
  """Path("") is the current folder; `str` are those that see to it later."""
  for parser in parsers(verb, monkeypatch):
    for action in parser._actions:
      if action.nargs == 0 or action.type is str:
        continue
      if action.dest in ("columns", "suite"):
        continue  # lists, whose items are looked up
      flag = action.option_strings[-1:]
      with pytest.raises(SystemExit, match="2"):
        parser.parse_args([*flag, ""])
      assert "argument " in capsys.readouterr().err, action


@pytest.mark.parametrize(
  ("verb", "arguments"),
  [
    ("inspect", ["data", "./a\x1b[31m\n"]),
    ("embed", ["a\x1b[31m\n", "--checkpoint=x", "--output=x.npz"]),
    ("prepare", ["procedural", "--output=x", "--a\x1b[31m\n"]),
  ],
)
def test_arguments_are_not_printed_raw(verb, arguments, capsys):
  with pytest.raises(SystemExit, match="2"):
    importlib.import_module(f"mrd_jax.{verb}.__main__").main(arguments)
  said = capsys.readouterr().err
  assert said.endswith("a\\x1b[31m\\n\n"), said


@pytest.mark.parametrize(
  ("error", "code", "said"),
  [
    (BadInput("a.npy: is empty"), 2, "error: a.npy: is empty\n"),
    (OSError(28, "No space left", "a"), 2, "error: [Errno 28] No space left: "),
    (RunFailed("step 3: NaN"), 1, "error: step 3: NaN\n"),
    *(
      (
        ModuleNotFoundError(name=package),
        2,
        f"error: this needs {name}, which is not installed: pip install "
        f"mrd-jax[{extra}]\n",
      )
      for package, name, extra in (
        ("torch", "PyTorch", "torch"),
        ("torch.nn", "PyTorch", "torch"),
        ("faiss", "FAISS", "index"),
        ("wandb", "Weights & Biases", "wandb"),
      )
    ),
  ],
)
def test_failures_are_a_sentence_and_a_code(error, code, said, capsys):
  assert cli.exit_code(mock.Mock(side_effect=error)) == code
  assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize(
  "error", [KeyError("x"), ModuleNotFoundError(name="x")]
)
def test_bugs_pass(error):
  with pytest.raises(type(error)):
    cli.exit_code(mock.Mock(side_effect=error))


def test_every_extra_is_one_of_the_package():
  setup = (REPOSITORY / "setup.py").read_text()
  for _, extra in cli.EXTRAS.values():
    assert f'"{extra}": [' in setup


@pytest.mark.parametrize(
  ("arguments", "field", "value"),
  [
    (["--config.train.batch_size=64"], "train.batch_size", 64),
    (["--config.train.batch_size", "64"], "train.batch_size", 64),
    (["--config.train.epochs=3"], "train.epochs", 3.0),
    (["--config.augment.rotate=False"], "augment.rotate", False),
    (["--noconfig.augment.rotate"], "augment.rotate", False),
    (["--config.eval.zero_shot=('val',)"], "eval.zero_shot", ("val",)),
    (["--config.eval.zero_shot", "()"], "eval.zero_shot", ()),
    (["--config.seed=1", "--config.seed=2"], "seed", 2),
  ],
)
def test_arguments_change_fields(arguments, field, value):
  """Wherever they stand among the flags of a verb."""
  config = str(REPOSITORY / "configs" / "base.py")
  parser = cli.Parser(allow_abbrev=False)
  cli.add_run(parser, pretraining.Config)
  args, overrides = parser.parse_known_args(
    ["--config", config, *arguments, "--workdir=runs/a b", "--distributed"]
  )
  assert str(args.workdir) == "runs/a b" and args.distributed
  found = pretraining.Config.from_dict(cli.load_config(args.config, overrides))
  for part in field.split("."):
    found = getattr(found, part)
  assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
  ("file", "argument", "words"),
  [
    (None, "--config.trian.steps=3", "no such field .*'trian'.*train"),
    (None, "--config.train.steps=1.5", "--config.train.steps=1.5"),
    (None, "--config.seed", "Missing value for flag --config.seed"),
    (None, "--odd=3", "^unknown argument: --odd$"),
    (None, "odd", "^unknown argument: odd$"),
    (
      "get_config = (",
      None,
      "config.py: cannot be loaded .* where configs/ is",
    ),
    ("import configs.nothing", None, "cannot be loaded .*No module named"),
    ("x = 3", None, "config.py: has no function get_config"),
    ("", "missing", "none.py: no such file; name one of configs/"),
  ],
)
def test_what_cannot_be_loaded_is_named(file, argument, words, tmp_path):
  path = REPOSITORY / "configs" / "base.py"
  if file is not None:
    path = tmp_path / "config.py"
    path.write_text(file)
  if argument == "missing":
    path = tmp_path / "none.py"
  with pytest.raises(BadInput, match=words) as error:
    cli.load_config(str(path), [argument] if argument else [])
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("argument", "words"),
  [
    ("--config.loss.representation=cosine", "config.loss.representation is"),
    ("--config.trian.steps=3", "no such field of the config: 'trian'"),
    ("--config=configs/none.py", "--config configs/none.py: no such file"),
    ("--config.data.dir=nowhere", "data.dir: nowhere does not exist"),
    ("--num_processes=2", "--coordinator, --num_processes and --process_id"),
  ],
)
def test_a_run_with_bad_input_is_refused(
  argument, words, tmp_path, capsys, monkeypatch
):
  monkeypatch.chdir(REPOSITORY)
  workdir = tmp_path / "run"
  arguments = ["--config=configs/debug.py", "--config.data.made_from="]
  assert main.main([*arguments, f"--workdir={workdir}", argument]) == 2
  captured = capsys.readouterr()
  assert captured.err.startswith(f"error: {words}")
  assert captured.err.count("\n") == 1 and captured.out == ""
  assert not (workdir / "config.json").exists()


def test_a_verb_imports_nothing_of_the_current_folder(tmp_path):
  """A folder that was fetched may have a numpy.py; a config's stands there."""
  for name in ("numpy", "jax", "array_record", "tqdm"):
    (tmp_path / f"{name}.py").write_text("raise SystemExit('executed')")
  (tmp_path / "mine.py").write_text("from ml_collections import ConfigDict")
  (tmp_path / "config.py").write_text("from mine import ConfigDict\nx = 3")
  script = (
    f"import sys; sys.path.append({str(REPOSITORY)!r})\n"
    "from mrd_jax import cli\n"
    "sys.argv = ['mrd', 'inspect', '.']\n"
    "try: cli.main()\nexcept SystemExit as ended: print(ended)\n"
    "try: cli.load_config('config.py', [])\nexcept ValueError as e: print(e)"
  )
  # -P: as the command mrd is started, without the current folder.
  found = subprocess.run(
    [sys.executable, "-P", "-c", script],
    cwd=tmp_path,
    text=True,
    capture_output=True,
  )
  assert found.stdout == "2\n--config config.py: has no function get_config\n"
  assert "error: data.dir: . is not a prepared dataset" in found.stderr


def test_the_current_folder_is_importable_for_the_config_alone(tmp_path):
  config = tmp_path / "config.py"
  config.write_text("import sys\nassert '' in sys.path\nx = 3")
  before = list(sys.path)
  with pytest.raises(BadInput, match="no function get_config"):
    cli.load_config(str(config), [])
  assert sys.path == before


def test_one_ctrl_c_ends_a_verb_also_during_an_import(tmp_path):
  (tmp_path / "slow.py").write_text(
    "import signal, time\n"
    "try: signal.raise_signal(signal.SIGINT)\n"
    "except KeyboardInterrupt: raise ImportError('a fault of its own')"
  )
  said = output_of(
    f"""
    import signal, sys
    from mrd_jax import cli
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stderr = sys.stdout
    sys.path.append({str(tmp_path)!r})
    cli.exit_code(lambda: __import__("slow"))
    """,
    expect=INTERRUPTED,
  )
  assert said == "error: interrupted; repeat the command to go on\n"


class Late:
  """What the collector calls, whose exceptions Python drops."""

  def __del__(self):
    signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("in_the_foreground")
def test_ctrl_c_is_raised_again_where_python_drops_it(capsys):
  def verb() -> int:
    Late()
    time.sleep(60)
    return 0

  start = time.monotonic()
  assert cli.exit_code(verb) == INTERRUPTED
  assert time.monotonic() - start < 30
  assert capsys.readouterr().err == (
    "error: interrupted; repeat the command to go on\n"
  )


def test_every_verb_is_there(monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["mrd", "paint"])
  with pytest.raises(SystemExit, match="2"):
    cli.main()
  assert capsys.readouterr().err == (
    "usage: mrd {ablate,compare,convert,embed,evaluate,finetune,inspect,main,"
    "models,prepare,report,search} ...\n"
  )
