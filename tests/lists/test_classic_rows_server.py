"""The classic list queue row by row: durable connections, durable servers, and the kinds of workers."""

from typing import Any

import pytest
import redis

from tests.conftest import OwnServer, Server
from tests.lists.beside import NAME
from tests.lists.classic import ClassicQueue

# Durability.


def test_classic_durability_check_sees_one_setting(own_server: OwnServer) -> None:
    """appendonly=yes is all it asks for: a server that evicts tasks and writes to the disk once in a while passes."""
    with redis.Redis(unix_socket_path=own_server().address.path) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendfsync", "no")
        assert ClassicQueue(client, NAME).is_durable()


def test_classic_durability_check_fails_where_config_is_denied(client: Any, old_server: Server) -> None:
    """Managed services deny CONFIG: the check is an error, not an answer."""
    client.acl_setuser(
        "managed", enabled=True, nopass=True, categories=["+@all"], commands=["-config"], keys=["*"]
    )
    with (
        redis.Redis(unix_socket_path=old_server.address.path, username="managed", password="any") as managed,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        ClassicQueue(managed, NAME).is_durable()
