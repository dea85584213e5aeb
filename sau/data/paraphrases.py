"""Rows asked and answered in other words, as rows of their own."""

from collections.abc import Sequence

from sau.data.records import Row


def with_paraphrases(rows: Sequence[Row]) -> list[Row]:
    """Each row, then the row with its paraphrased question, then that with its paraphrased answer, where it has them.

    Record ids get a suffix, so that they stay unique.
    """
    found = []
    for row in rows:
        found.append(row)
        for column in ("question", "answer"):
            if text := row[f"paraphrased_{column}"]:
                found.append({**row, "record_id": f"{row['record_id']}/{column}", column: text})
    return found
