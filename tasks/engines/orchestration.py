"""What the product uses of Prefect."""

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import as_completed
from prefect.task_runners import ThreadPoolTaskRunner

__all__ = ["NO_CACHE", "ThreadPoolTaskRunner", "as_completed", "create_markdown_artifact", "flow", "task"]
