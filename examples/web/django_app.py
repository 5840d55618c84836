"""Django in one file, under gunicorn: the application's lines and Django's own (django.request names what failed).

cd examples/web
MILLSTREAM_URL=redis://localhost gunicorn django_app:app --config gunicorn_conf.py --workers 2
"""

import os
from collections.abc import Callable

import structlog
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from logs import LOGGING, set_up
from request_context import begin_request

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    SECRET_KEY=os.environ.get("SECRET_KEY", os.urandom(32).hex()),
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[f"{__name__}.request_context"],
    LOGGING=LOGGING,
)
set_up()
log = structlog.get_logger()


def request_context(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """A middleware: each request begins with an id and a place in a trace; the answer names the id."""

    def handle(request: HttpRequest) -> HttpResponse:
        request_id = begin_request(request.headers.get)
        response = get_response(request)
        response["X-Request-Id"] = request_id
        return response

    return handle


def order(request: HttpRequest, number: int) -> HttpResponse:
    """An order; number 0 is one too many."""
    log.info("order shown", order=number, share=100 // number)
    return JsonResponse({"order": number})


urlpatterns = [path("orders/<int:number>", order)]
app = get_wsgi_application()
