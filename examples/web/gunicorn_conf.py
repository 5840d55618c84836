"""gunicorn's own lines to the same stream; the application is loaded once, before the workers are forked."""

from logs import LOGGING

bind = "127.0.0.1:8000"
preload_app = True
accesslog = "-"
# Both are to reach the handlers of the root, and gunicorn's defaults for `loggers` name handlers that are not ours.
logconfig_dict = LOGGING | {
    "loggers": {"gunicorn.error": {"propagate": True}, "gunicorn.access": {"propagate": True}}
}
