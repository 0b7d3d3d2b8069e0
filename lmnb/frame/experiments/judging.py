"""`lmnb.judge`: a local model's verdict on answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import pandas as pd
from pydantic import Field

from lmnb.frame.values import added, column, ensure_free

_CRITERION = "The answer is correct, and says what the question asks for."
_SYSTEM = (
    "You judge answers strictly, by the criterion alone. Give the reason first, in a sentence."
)
_REASON = 300
"""Characters: small models do not end by themselves."""


def judge(
    answers: pd.DataFrame,
    criterion: str = _CRITERION,
    *,
    question: Any = "question",
    answer: Any = "answer",
    reference: Any = None,
    verdicts: Sequence[str] = ("yes", "no"),
    into: str = "verdict",
    overwrite: bool = False,
    dry_run: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Let a model say of each answer whether it meets a criterion.

    Parameters
    ----------
    answers
        A row for each answer.
    criterion
        What a good answer is like.
    question, answer, reference
        The columns of what was asked, of what was answered and of what is right, if that is known.
    verdicts
        What the model may say.
    into
        The column of verdicts.
    dry_run
        Ask nothing: the questions to the judge are in `{into}_prompt`.
    overwrite, options
        As in `df.lm.map`: `model`, `max_tokens`, `concurrency`, `cache`, … A model should not judge its
        own answers.

    Returns
    -------
    DataFrame
        A copy with the verdict (a category), `{into}_reason`, and `{into}_error`: rows whose question,
        answer or reference is null have no verdict.

    Notes
    -----
    What a model thinks of answers is no measurement before it has been compared with people's verdicts
    on some of them; a small model's often is none then, either.

    Raises
    ------
    InvalidRequest
        A column is missing, or is there already.
    ModelNotFound, ServerError
        There is no model, or no server; verdicts up to then are kept.
    """
    names = [f"{into}_prompt"] if dry_run else [into, f"{into}_reason", f"{into}_error"]
    ensure_free(answers, names, overwrite=overwrite)
    given = {"question": question, "answer": answer}
    if reference is not None:
        given["reference"] = reference
    asked = pd.DataFrame(
        {name: column(answers, one) for name, one in given.items()}, index=answers.index
    )
    asked["criterion"] = criterion
    schema = {"reason": Annotated[str, Field(max_length=_REASON)], "verdict": list(verdicts)}
    judged = asked.lm.map(
        _template(given), schema, dry_run=dry_run, **{"system": _SYSTEM, **options}
    )
    results = ["out_prompt"] if dry_run else ["verdict", "reason", "out_error"]
    columns = {name: judged[one] for name, one in zip(names, results, strict=True)}
    found = added(answers, columns, overwrite=overwrite)
    found.attrs.update(judged.attrs)
    return found


def _template(names: Any) -> str:
    """The question to the judge, with a place for each of the columns."""
    told = {"question": "Question", "reference": "What is right", "answer": "Answer to judge"}
    parts = [f"{title}: {{{name}}}" for name, title in told.items() if name in names]
    return "\n\n".join([*parts, "Criterion: {criterion}", "Is the criterion met?"])
