"""From several kinds of feedback to one graded label."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from psad_tf.features import LabelDeclaration


def labeler(declaration: LabelDeclaration) -> Callable[[Mapping[str, float | None]], tuple[float, float]]:
    """Makes the function feedback -> (relevance, negative).

        relevance = max({grade of r : feedback[r.feedback] >= r.at_least} ∪ {0})
        negative = 1 if relevance = 0 and feedback[n.feedback] <= n.at_most for some n, else 0

    A feedback that is absent or null satisfies no rule.

    Example:
        >>> from psad_tf.features import LabelRule, NegativeRule
        >>> label = labeler(LabelDeclaration((LabelRule("rating", 4, 1), LabelRule("rating", 5, 2)),
        ...                                  (NegativeRule("rating", 1),)))
        >>> label({"rating": 5}), label({"rating": 1}), label({})
        ((2.0, 0.0), (0.0, 1.0), (0.0, 0.0))
    """
    # The highest grade first: the first rule that holds decides.
    grades = [
        (rule.feedback, rule.at_least, float(rule.grade))
        for rule in sorted(declaration.grades, key=lambda rule: -rule.grade)
    ]
    negatives = [(rule.feedback, rule.at_most) for rule in declaration.negatives]

    def label(feedback: Mapping[str, float | None]) -> tuple[float, float]:
        for name, at_least, grade in grades:
            value = feedback.get(name)
            if value is not None and value >= at_least:
                return grade, 0.0
        for name, at_most in negatives:
            value = feedback.get(name)
            if value is not None and value <= at_most:
                return 0.0, 1.0
        return 0.0, 0.0

    return label
