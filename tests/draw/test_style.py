"""The look of all figures."""

from mrd_jax.draw.style import figure


def test_a_letter_that_no_font_has_is_not_printed(tmp_path, recwarn, capfd):
  path = tmp_path / "figures" / "a.png"
  with figure(path, "a \x1b[31m\x07 shape", ["\u4e2d"], 2.0):
    pass
  assert path.exists() and not recwarn.list
  assert capfd.readouterr() == ("", "")
