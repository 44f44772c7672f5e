"""Where to compute: the device of a name, and how many threads."""

from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits


def torch_device(name):
    """The device of a name, "auto" being a GPU where there is one; a ValueError for one that cannot compute here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"Found device={name!r}. Expected 'cpu', 'cuda' (or 'cuda:0', ...) or 'auto'.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={name!r}, but torch finds no CUDA device here. Use device='cpu' or 'auto'.")
    try:
        (torch.ones(2, device=device) + 1).sum().item()
    except (RuntimeError, AssertionError, ImportError) as error:  # what torch raises differs from device to device
        found = str(error).partition("\n")[0][:120]
        raise ValueError(
            f"device={name!r}, but torch cannot compute there ({found}). Use device='cpu' or 'auto'."
        ) from error
    return device


def ran_out_of_memory(error):
    """Whether an error says that memory ended, on a CPU or on a GPU, as NumPy or torch words it."""
    words = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(word in str(error) for word in words)


@contextmanager
def few_threads(n_values):
    """One thread where a pass over so few values takes less time than waiting for a second thread may.

    BLAS keeps one thread up to four times as many values as torch, since its waiting threads hold up those of torch.
    """
    n_threads = torch.get_num_threads()
    try:
        if n_values < 2**21:
            torch.set_num_threads(1)
        with threadpool_limits(1 if n_values < 2**23 else None, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(n_threads)
