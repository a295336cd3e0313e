"""Compares our numerics with PyTorch's, stage by stage and for a step.

`torch_losses.py`, `torch_optimizer.py` and `convert/pointbert_modules.py` are
the PyTorch side: an independent implementation, written from the equations
and never from our JAX code.  The tests are held against it, too.
"""
