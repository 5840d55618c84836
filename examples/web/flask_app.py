"""Flask under gunicorn, two workers forked from one process that has loaded the application (and logged).

cd examples/web
MILLSTREAM_URL=redis://localhost gunicorn flask_app:app --config gunicorn_conf.py --workers 2
"""

import structlog
from flask import Flask, Response, g, request
from logs import set_up
from request_context import begin_request

set_up()
log = structlog.get_logger()
app = Flask(__name__)
log.info("application loaded")


@app.before_request
def begin() -> None:
    """The request has an id and a place in a trace from here on."""
    g.request_id = begin_request(request.headers.get)


@app.after_request
def name(response: Response) -> Response:
    """The answer names the id."""
    response.headers["X-Request-Id"] = g.request_id
    return response


@app.get("/orders/<int:number>")
def order(number: int) -> dict[str, int]:
    """An order; number 0 is one too many. Flask logs the exception as its logger `flask_app`."""
    log.info("order shown", order=number, share=100 // number)
    return {"order": number}
