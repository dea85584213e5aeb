"""When a cron expression is due in a time zone: asked before anything is imported that takes seconds."""

from datetime import UTC, datetime
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from sau.errors import ConfigError


def next_run(cron: str, timezone: str = "UTC", after: datetime | None = None) -> datetime:
    """When a cron expression is due next, in UTC.

    A time that the clocks skip in spring is due right after it, one that they show twice in autumn once (as in Debian's
    cron).

    Args:
        timezone: whose clocks the expression speaks of, by its IANA name.
        after: default: now.

    Raises:
        ConfigError: no cron expression, or no time zone.
    """
    if timezone not in available_timezones():
        near = get_close_matches(timezone, available_timezones(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"time zone {timezone!r}: has to be an IANA name such as UTC or Europe/Berlin{hint}")
    try:
        return next(CronSim(cron, (after or datetime.now(UTC)).astimezone(ZoneInfo(timezone)))).astimezone(UTC)
    except (CronSimError, StopIteration):
        raise ConfigError(f"cron {cron!r}: has to be five fields such as '0 3 * * *' that come true some day") from None


def check_deployable(cron: str, timezone: str) -> None:
    """Refuse what a Prefect server would refuse later, or read in another way: it has no field of seconds in front.

    Raises:
        ConfigError: as in `next_run`, and where there are six fields.
    """
    next_run(cron, timezone)
    if len(cron.split()) != 5:
        raise ConfigError(f"cron {cron!r}: has to be five fields such as '0 3 * * *'; a deployment knows no seconds")
