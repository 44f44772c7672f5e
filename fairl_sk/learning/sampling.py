"""Samples of failures by the content of the pairs: the order of the rows does not matter, and a copy is weight 2."""

import numpy as np

__all__ = ["sample_failures"]


def content_keys(rows, seed):
    """A 64-bit key of each row's content: equal rows have equal keys, wherever they stand.

    The key is a multilinear hash of the bits in arithmetic modulo 2**64, hence exact.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_columns), float32 or float64
    seed : int

    Returns
    -------
    keys : ndarray of shape (n_rows,), uint64
    """
    words = rows.shape[1] * rows.dtype.itemsize // 4
    multipliers = _odd_numbers(seed, words)
    keys = np.empty(len(rows), dtype=np.uint64)
    step = max(1, 2**15 // max(words, 1))  # temporaries stay in the cache
    for start in range(0, len(rows), step):
        part = np.ascontiguousarray(rows[start : start + step]) + 0.0  # no negative zero
        keys[start : start + step] = np.einsum("ij,j->i", part.view(np.uint32).astype(np.uint64), multipliers)
    return keys


def _odd_numbers(seed, size):
    return np.random.default_rng(seed).integers(0, 2**63, size=size, dtype=np.uint64) * 2 + 1


def output_keys(X, seed):
    """The `content_keys` of the outputs of X (n_pairs, 2, n_features) or (n_samples, n_features), one row each."""
    return content_keys(X.reshape(-1, X.shape[-1]), seed).reshape(len(X), -1)


def pair_keys(X, sign, seed):
    """A 64-bit key of each pair's content, and the key that it would have if the other side were preferred.

    Sampling by such keys makes a fit independent of the order of the rows and of the sides, and makes two copies of a
    pair the same as one pair of weight 2.

    Parameters
    ----------
    X : ndarray of shape (n_pairs, 2, n_features) or (n_samples, n_features), float32 or float64
        Pairs, or outputs, whose opponent is nothing.
    sign : ndarray of shape (n_pairs,)
        +1 where the first side is preferred, else -1.
    seed : int

    Returns
    -------
    keys, opposite : ndarray of shape (n_pairs,), uint64
    """
    return keys_of_pairs(output_keys(X, seed), sign, seed)


def keys_of_pairs(outputs, sign, seed):
    """What `pair_keys` gives, from the `output_keys`."""
    if outputs.shape[1] == 1:
        outputs = np.pad(outputs, ((0, 0), (0, 1)))
    preferred, other = np.where(sign > 0, outputs.T, outputs.T[::-1])
    first, second = _odd_numbers(seed + 1, 2)
    return preferred * first + other * second, other * first + preferred * second


def clustered_weights(outputs, sample_weight, correlation):
    r"""Weights of pairs whose outputs recur: :math:`w_i / (1 + \varrho (m_i + n_i - 2))`, theory, "Outputs that recur".

    Parameters
    ----------
    outputs : ndarray of shape (n_pairs, 2)
        What tells the outputs apart, from `output_keys`.
    sample_weight : ndarray of shape (n_pairs,)
    correlation : float >= 0

    Returns
    -------
    weights : ndarray of shape (n_pairs,), float64
        :math:`m_i` and :math:`n_i` are the numbers of distinct pairs of positive weight with the one and with the other
        output of pair i, so that copies of a pair are still the same as its weight. ``sample_weight`` itself where no
        output recurs or the correlation is 0.
    """
    if correlation == 0:
        return sample_weight
    outputs, codes = np.unique(outputs, return_inverse=True)
    codes = codes.reshape(-1, 2)
    # a pair that says the opposite is no other pair, and one of an output with itself says nothing of it
    known = codes[(sample_weight > 0) & (codes[:, 0] != codes[:, 1])]
    distinct = np.unique(np.sort(known, axis=1), axis=0)
    counts = np.bincount(distinct.ravel(), minlength=len(outputs))
    if counts.max() <= 1:
        return sample_weight
    return sample_weight / (1 + correlation * np.maximum(counts[codes].sum(axis=1) - 2, 0))


def mixed_keys(keys, index):
    """Keys of round ``index``: the finaliser of SplitMix64 (Steele et al., 2014), a bijection that mixes all bits."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15 * (index + 1) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        keys ^= keys >> np.uint64(shift)
        keys *= np.uint64(factor)
    keys ^= keys >> np.uint64(31)
    return keys


class KeyOrder:
    """The pairs in the order of their keys in one round, for samples of many sets of failures of the same pairs.

    Parameters
    ----------
    keys : ndarray of shape (n_pairs,), uint64
        The pairs' keys, from `pair_keys`.
    index : int
        The round.

    Attributes
    ----------
    rows : ndarray of shape (n_pairs,), int
        The pairs, the one with the smallest key of this round first.
    keys : ndarray of shape (n_pairs,), uint64
        Their keys in this round, ascending.
    """

    def __init__(self, keys, index):
        self.keys = mixed_keys(keys, index)
        self.rows = np.argsort(self.keys)
        self.keys = self.keys[self.rows]
        self._summed = None

    def of_rows(self, position):
        """The order of some of the pairs, renumbered: ``position`` (n_pairs,) is the new number, or -1 to leave out."""
        new = object.__new__(KeyOrder)
        rows = position[self.rows]
        kept = rows >= 0
        if kept.all():  # no copies
            new.rows, new.keys, new._summed = rows, self.keys, None
        else:
            new.rows, new.keys, new._summed = rows[kept], self.keys[kept], None
        return new

    def sample(self, failures, sample_weight, budget):
        """What `sample_failures` gives, in the order of the keys: it reads no more pairs than fill the budget.

        Parameters
        ----------
        failures, sample_weight, budget
            See `sample_failures`; pairs without sample weight have to be left out of the order.

        Returns
        -------
        sample : ndarray of int
        """
        limit, n_rows = budget * (1 + 1e-9), len(self.rows)
        n_failures = np.count_nonzero(failures)
        # so many rows fill the budget if weights and failures are spread evenly
        size = int(min(n_rows, 64 + 1.1 * n_rows * (limit * n_rows / self._total(sample_weight)) / max(n_failures, 1)))
        while True:
            found = np.flatnonzero(failures[self.rows[:size]])
            sample = self.rows[found]
            total = np.cumsum(sample_weight[sample])
            filled = len(total) and total[-1] > limit
            if filled or size == n_rows:
                break
            size = min(2 * size, n_rows)
        if not filled:
            return sample
        end = np.searchsorted(total, limit, side="right")
        while end > 0 and self.keys[found[end - 1]] == self.keys[found[end]]:  # not a part of the copies of one pair
            end -= 1
        return sample[:end]

    def chunks(self, size):
        """The order in chunks, of at least so many pairs where they last, none of which parts the copies of a pair.

        Parameters
        ----------
        size : int

        Yields
        ------
        rows : ndarray of int
            The pairs.
        first : ndarray of int, one longer
            Rank in the chunk of the first copy of each, and the chunk's length.
        """
        begin = 0
        while begin < len(self.rows):
            last = self.keys[min(begin + size, len(self.rows)) - 1]
            end = int(np.searchsorted(self.keys, last, side="right"))
            keys = self.keys[begin:end]
            yield self.rows[begin:end], np.append(np.searchsorted(keys, keys), len(keys))
            begin = end

    def _total(self, sample_weight):
        """Sum of the weights, which is formed once for all samples by the same weights."""
        if self._summed is not sample_weight:
            self._summed, self._sum = sample_weight, sample_weight.sum()
        return self._sum


def sample_failures(failures, keys, index, sample_weight, budget):
    """Sample S_t of the failures, of total weight at most ``budget``.

    It is the sample of theory, eq. 7.

    Parameters
    ----------
    failures : ndarray of shape (n_pairs,)
        Failure weights; 0 is no failure.
    keys : ndarray of shape (n_pairs,), uint64
        The pairs' keys, from `pair_keys`.
    index : int
        The round.
    sample_weight : ndarray of shape (n_pairs,)
        Weights of the pairs.
    budget : float
        Largest total of sample weight, :math:`p_t \\sum_i w_i`.

    Returns
    -------
    sample : ndarray of int
        Indices of the sampled pairs. Copies of one pair are all in or all out.
    """
    candidates = np.flatnonzero((failures > 0) & (sample_weight > 0))
    limit = budget * (1 + 1e-9)
    available = sample_weight[candidates].sum()
    if available <= limit:
        return candidates
    mixed = mixed_keys(keys[candidates], index)
    weight = sample_weight[candidates]
    if (weight == weight[0]).all():  # no need to sort: the smallest keys, but none that is as large as the first left
        n_sampled = int(limit / weight[0])
        return candidates[mixed < np.partition(mixed, n_sampled)[n_sampled]]
    low = mixed <= np.uint64(min(1.0, 1.5 * limit / available) * (2**64 - 2**11))
    if sample_weight[candidates[low]].sum() > limit:  # the low keys fill the budget: only they need sorting
        mixed, candidates = mixed[low], candidates[low]
    order = np.argsort(mixed)
    mixed, candidates = mixed[order], candidates[order]
    total = np.cumsum(sample_weight[candidates])
    last_copy = np.searchsorted(mixed, mixed, side="right") - 1
    return candidates[total[last_copy] <= limit]


def sampled_weights(failures, sample, sample_weight):
    """Weights of the sampled failures: failure weight times sample weight, so that they have mean 1 over all pairs.

    Parameters
    ----------
    failures : ndarray of shape (n_pairs,)
        Failure weights.
    sample : ndarray of shape (n_sampled,), int
    sample_weight : ndarray of shape (n_pairs,)

    Returns
    -------
    weights : ndarray of shape (n_sampled,), float64
    """
    if not len(sample):
        return np.empty(0)
    weights = failures[sample] / failures[sample].max() * sample_weight[sample]
    return weights * (len(failures) / weights.sum())
