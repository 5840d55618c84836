"""How the web examples log: structlog for the application, the standard library for its frameworks, one stream.

LOGGING is for logging.config.dictConfig, Django's setting of the same name, and gunicorn's logconfig_dict;
`uvicorn --log-config` takes the same from a file (uvicorn_logs.json).
"""

import logging.config
from typing import Any

import structlog

from millstream import ship_logs

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request": {"()": "request_context.RequestFields"}},
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "plain"},
        "stream": {"class": "millstream.LogHandler", "stream": "logs", "filters": ["request"]},
    },
    "root": {"level": "INFO", "handlers": ["stderr", "stream"]},
}

shipping = ship_logs("logs")


def set_up() -> None:
    """Have everything that is logged shipped to the stream `logs`."""
    logging.config.dictConfig(LOGGING)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            shipping,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
