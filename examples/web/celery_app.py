"""Celery with its default pool (prefork): what tasks log carries the task's id and the trace of who asked for it.

cd examples/web
MILLSTREAM_URL=redis://localhost BROKER_URL=redis://localhost celery -A celery_app worker --concurrency 2
"""

import os
from typing import Any

import structlog
from celery import Celery, signals
from logs import set_up
from request_context import begin_request

app = Celery("shop", broker=os.environ.get("BROKER_URL", "redis://localhost"))
app.conf.broker_connection_retry_on_startup = True
log = structlog.get_logger()


@signals.setup_logging.connect
def configure(**_: Any) -> None:
    """Instead of Celery's own logging."""
    set_up()


@signals.task_prerun.connect
def begin(task_id: str, task: Any, **_: Any) -> None:
    """A task is to its lines what a request is to those of a web application."""
    begin_request((task.request.headers or {}).get, task_id=task_id)


@app.task
def charge(order: int) -> None:
    """A task; order 0 is one too many."""
    log.info("order charged", order=order, share=100 // order)
