"""Draws the figures of a run: losses, dynamic weights, accuracy, retrieval."""

from pathlib import Path

from mrd_jax.errors import BadInput
from mrd_jax.io.files import held, lock_beside
from mrd_jax.report import accuracy, losses, retrieval_sheet, weights
from mrd_jax.report.run_folder import RunFolder

# Each draws a run into a file; it raises BadInput when there is nothing.
PRETRAINING = {
  "losses.png": losses.draw,
  "dynamic_weights.png": weights.draw,
  "zero_shot.png": accuracy.draw,
  "retrieval_text_to_shape.png": retrieval_sheet.draw,
}
FINETUNING = {"losses.png": losses.draw, "accuracy.png": accuracy.draw}


def draw(run: RunFolder) -> tuple[list[Path], list[str]]:
  """Draws all figures of a run into its folder `figures`.

  Returns:
    The files drawn, and a sentence for every figure that was left out.
  """
  drawn, left_out = [], []
  drawings = FINETUNING if run.finetuned else PRETRAINING
  for name, function in drawings.items():
    path = run.workdir / "figures" / name
    try:
      # Reports whose pages differ may draw the same run.
      with held("DIR", lock_beside(path)):
        function(run, path)
      drawn.append(path)
    except (BadInput, OSError) as error:  # a folder that only others write to
      left_out.append(f"{name} left out: {error}")
  if not drawn:
    left_out = [f"{run.workdir}: nothing to draw; {'; '.join(left_out)}"]
  return drawn, left_out
