"""Linear programs (HiGHS) and volumes (Qhull) of a polytope; the mathematics behind `feasible`."""

import numpy as np
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection


class Polytope:
    """The points u with ``rows @ u >= floors`` in the box ``|u_j| <= 1``.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_features)
    floors : ndarray of shape (n_rows,)
    """

    def __init__(self, rows, floors):
        self.rows, self.floors = rows, floors
        self._working = np.unique(np.linspace(0, len(rows) - 1, 4 * rows.shape[1]).astype(int))

    def shortage(self, point):
        """How far a point is outside its worst limit; 0 or less inside."""
        return max((self.floors - self.rows @ point).max(), np.abs(point).max() - 1)

    def lowest(self, cost):
        """The point with the smallest cost . u, or None if the polytope is empty."""
        solution = self._minimize(cost, self.floors)
        return None if solution is None else solution[0]

    def largest_ball(self):
        """Center and radius of the largest ball inside, or None if the polytope is empty."""
        cost = np.append(np.zeros(self.rows.shape[1]), -1.0)
        solution = self._minimize(cost, self.floors, last=-np.linalg.norm(self.rows, axis=1), box=(1.0, 1.0))
        return None if solution is None else (solution[0], max(0.0, solution[1]))

    def relaxed(self, unit):
        """(amount, duals) of the smallest amount by which floors must be lowered, in each row's ``unit``."""
        cost = np.append(np.zeros(self.rows.shape[1]), 1.0)
        return self._minimize(cost, self.floors, last=unit)[1:]

    def smallest_box(self):
        """The smallest t for which a point with ``|u_j| <= t`` satisfies all rows; infinite if no t does."""
        unit = self.floors.max()
        if unit <= 0:
            return 0.0
        cost = np.append(np.zeros(self.rows.shape[1]), 1.0)
        solution = self._minimize(cost, self.floors / unit, last=0.0, box=(-1.0, 0.0))
        return np.inf if solution is None else solution[1] * unit

    def _minimize(self, cost, floors, *, last=None, box=None):
        """Minimize cost . (u, t) over rows . u + last * t >= floors, t >= 0 and ``|u_j| + box[0] * t <= box[1]``.

        Without ``last`` there is no t; without ``box``, ``|u_j| <= 1``. Returns (u, t, duals); None if infeasible.
        Solves with some rows, then adds those that the solution violates: few of many rows matter.
        """
        n_rows, n_features = self.rows.shape
        columns = np.zeros((n_rows, 0)) if last is None else np.broadcast_to(last, n_rows)[:, None]
        limits = [(-1.0, 1.0) if box is None else (None, None)] * n_features + [(0.0, None)] * columns.shape[1]
        sides, ends = np.zeros((0, len(limits))), np.zeros(0)
        if box is not None:
            unit = np.vstack([np.eye(n_features), -np.eye(n_features)])
            sides, ends = np.column_stack([unit, np.full(len(unit), box[0])]), np.full(len(unit), box[1])
        working = self._working
        while True:
            result = linprog(
                cost,
                A_ub=np.vstack([-np.hstack([self.rows[working], columns[working]]), sides]),
                b_ub=np.append(-floors[working], ends),
                bounds=limits,
                method="highs",
            )
            if result.status == 2:
                return None
            if result.status != 0:
                raise RuntimeError(f"HiGHS gave no solution: {result.message} Scale the features, e.g. StandardScaler.")
            u, t = result.x[:n_features], result.x[n_features:]
            short = floors - self.rows @ u - columns @ t
            short[working] = 0.0
            if short.max() <= 1e-7:
                break
            worst = np.argsort(-short)[: 4 * n_features]
            working = np.union1d(working, worst[short[worst] > 1e-7])
        self._working = working
        duals = np.zeros(n_rows)
        duals[working] = -result.ineqlin.marginals[: len(working)]
        return u, float(t.sum()), duals

    def volume(self):
        """Volume by Qhull, exact up to rounding; 0 if the polytope is flat or empty."""
        ball = self.largest_ball()
        if ball is None or ball[1] <= 1e-6:
            return 0.0
        n_features = self.rows.shape[1]
        if n_features == 1:
            return float(self.lowest([-1.0])[0] - self.lowest([1.0])[0])
        box = np.vstack([np.eye(n_features), -np.eye(n_features)])
        limits = [np.column_stack([-self.rows, self.floors]), np.column_stack([box, -np.ones(len(box))])]
        corners = HalfspaceIntersection(np.vstack(limits), ball[0]).intersections
        return float(ConvexHull(corners, qhull_options="QJ").volume)  # joggled by about 1e-10: corners may coincide

    def share(self, other, scale):
        """Share of the volume that is in another polytope, whose points are ``scale`` times as large."""
        box = scale * np.vstack([np.eye(self.rows.shape[1]), -np.eye(self.rows.shape[1])])
        rows = np.vstack([self.rows, scale * other.rows, box])
        both = Polytope(rows, np.concatenate([self.floors, other.floors, -np.ones(len(box))]))
        return min(1.0, both.volume() / self.volume())
