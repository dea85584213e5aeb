"""The engines: settings, git and DVC, MLflow, Prefect, the ledger's database.

Nothing else in the project imports prefect or mlflow. Both read their environment on import, and importing anything of
this package sets it first.
"""

from tasks.engines.settings import settings

settings()
