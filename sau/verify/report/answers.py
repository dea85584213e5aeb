"""What models answer, in words. It quotes the data, so it is for invented people only."""

from collections.abc import Mapping, Sequence

from sau.data.demo import is_demo
from sau.data.records import Row
from sau.errors import DataError
from sau.verify.evidence.readings import ModelSource, opened


def answers(
    models: Mapping[str, ModelSource | None], rows: Mapping[str, Sequence[Row]], *, num_rows: int = 4
) -> list[dict[str, str]]:
    """The greedy answers to the first `num_rows` questions of each set.

    Args:
        models: `before`, `after` and perhaps `reference`; those that are None are left out.
        rows: by set, such as `forget` and `retain`.

    Returns:
        Per question: set, question, and one answer by the name of each model.

    Raises:
        DataError: a row is not of the demo people.
    """
    asked = [(name, row) for name, some in rows.items() for row in some[:num_rows]]
    if foreign := sum(not is_demo(row) for _, row in asked):
        raise DataError(f"answers: {foreign} of {len(asked)} rows are not of the demo people, and no others are shown")
    shown = [{"set": name, "question": row["question"]} for name, row in asked]
    for role, source in models.items():
        if source is None:
            continue
        lm = opened(source)
        for entry, (_, row) in zip(shown, asked, strict=True):
            entry[role] = lm.answer(row)
    return shown
