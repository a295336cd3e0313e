"""Says what was lost, counted by kind."""

from mrd_jax.io.notes import Note, count_notes


def test_notes_are_counted_by_kind():
  notes = [Note("no texture", f"'{i}.png'", f"{i}.obj") for i in range(5)]
  notes += [Note("no texture", "again", "0.obj"), Note("moved", "far", "a.off")]
  assert count_notes(notes) == [
    "no texture: 5 files, 0.obj ('0.png'), 1.obj ('1.png'), 2.obj ('2.png'), "
    "...",
    "moved: 1 file, a.off (far)",
  ]
  assert count_notes([]) == []
