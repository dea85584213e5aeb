"""How numbers, margins and names are written for people, wherever they are shown."""

from sau.verify.record import Margin


def number_words(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def margin_words(margin: Margin | None) -> str:
    low, high = margin or (None, None)
    if low is None:
        return "–" if high is None else f"at most {high:.2f}"
    return f"at least {low:.2f}" if high is None else f"{low:.2f} to {high:.2f}"
