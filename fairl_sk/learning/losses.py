r"""Losses of a margin: what max-margin and max-entropy IRL charge for each pair (theory, eq. 2 and 3)."""

import torch

__all__ = ["LOSSES", "hinge_loss", "logistic_loss"]


def hinge_loss(margins, required, corner=0.0):
    r"""Hinge of max-margin IRL, :math:`\max(0, M - \Delta)`, optionally with a rounded corner.

    See theory, eq. 2.

    Parameters
    ----------
    margins : Tensor
        Margins, in units of reward.
    required : float or Tensor
        The required margin M.
    corner : float, default=0
        Width of the interval below M on which a parabola replaces the corner. The smooth loss is at most
        ``corner / 2`` below the hinge.

    Returns
    -------
    loss : Tensor
        Of the shape of ``margins``.
    """
    missing = (required - margins).clamp(min=0)
    if corner == 0:
        return missing
    return torch.where(missing < corner, missing**2 / (2 * corner), missing - corner / 2)


def logistic_loss(margins, temperature):
    r"""Negative log-likelihood of max-entropy IRL, :math:`\log(1 + e^{-\Delta/\tau})`.

    See theory, eq. 3.

    Parameters
    ----------
    margins : Tensor
        Margins, in units of reward.
    temperature : float or Tensor
        The temperature tau, in units of reward: a margin of one temperature means odds of e to 1.

    Returns
    -------
    loss : Tensor
        Of the shape of ``margins``.
    """
    return torch.nn.functional.softplus(-margins / temperature)


LOSSES = {"max_margin": hinge_loss, "max_entropy": logistic_loss}
