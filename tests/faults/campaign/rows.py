"""Rows: what is done to the system while events flow, one kind of fault each, and what must come of it."""

from collections.abc import Mapping

from tests.faults.campaign import handler_rows, list_rows, network_rows, server_rows, worker_rows
from tests.faults.campaign.row import Row

ROWS: Mapping[str, Row] = {
    row.name: row
    for row in (*worker_rows.ROWS, *handler_rows.ROWS, *network_rows.ROWS, *server_rows.ROWS, *list_rows.ROWS)
}
