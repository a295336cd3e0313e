"""Takes the weights of a TorchScript archive; its program is not looked at.

Each module there is an object of a class of the archive's own, `__torch__.…`,
whose state is a dict: tensors, modules inside it, plain values.
"""

from mrd_jax.io.archives import SPARE, TooCostly
from mrd_jax.io.torch_tensor import OtherTensor, Tensor
from mrd_jax.io.unpickler import Namespace, Refused

_ATTRIBUTE = 200  # bytes that one takes, besides its name


class Module(Namespace):
  """Stands in for a module, by its attributes."""

  __slots__ = ()

  def __setstate__(self, state: dict) -> None:
    if type(state) is not dict:
      raise Refused(
        "a TorchScript archive with a module that is packed or quantised; ask "
        "for one of plain numbers"
      )
    super().__setstate__(state)


def state_dict(root: Module, size: int) -> dict[str, Tensor | OtherTensor]:
  """Lists the tensors of a module and all modules inside, by dotted names.

  PyTorch's own lists parameters and buffers; this has other attributes that
  are tensors, too, which only the program tells apart.

  Args:
    root: Of the archive.
    size: Of the file, in bytes.

  Raises:
    TooCostly: if modules are in each other again and again: the names would
      take more than three times the size of the file and 300 MB.
    ValueError: if a name is no text, or two tensors have one.
  """
  found: dict[str, Tensor | OtherTensor] = {}
  cost, waiting = 0, [("", root)]
  while waiting:
    prefix, module = waiting.pop()
    inside = []
    # A slot is empty if the pickle never set it.
    for name, value in getattr(module, "state", {}).items():
      if not isinstance(name, str):
        raise ValueError("an attribute without a name")
      cost += _ATTRIBUTE + len(prefix) + len(name)
      if cost > 3 * size + SPARE:
        raise TooCostly("refused: its modules are in each other without end")
      if isinstance(value, Module):
        inside.append((f"{prefix}{name}.", value))
      elif isinstance(value, Tensor | OtherTensor):
        if prefix + name in found:
          raise ValueError("two tensors of one name")
        found[prefix + name] = value
    waiting += reversed(inside)
  return found
