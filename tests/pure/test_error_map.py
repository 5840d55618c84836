"""The error table: each answer as servers word it finds its row, and each row says what everybody does."""

import pytest

from pipeline.errors import (
    AccessDeniedError,
    NoSuchGroupError,
    NotConnectedError,
    ServerRefusedError,
    UnsupportedServerError,
    WrongKeyTypeError,
)
from pipeline.server.error_map import ERRORS, Reaction, error_code, row_of, server_error

ANSWERS = {
    "OOM command not allowed when used memory > 'maxmemory'.": "OOM",
    "OOM command not allowed when used memory > 'maxmemory'. script: 9a8, on @user_script:12.": "OOM",
    "ERR Error running script (call to f_9a8): @user_script:12: @user_script: 12: -OOM command not allowed": "OOM",
    "LOADING Redis is loading the dataset in memory": "LOADING",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.": "MISCONF",
    "READONLY You can't write against a read only replica.": "READONLY",
    "ERR Error running script (call to f_1): @user_script:1: -READONLY You can't write against": "READONLY",
    "NOREPLICAS Not enough good replicas to write.": "NOREPLICAS",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.": "MASTERDOWN",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.": "BUSY",
    "CLUSTERDOWN The cluster is down": "CLUSTERDOWN",
    "TRYAGAIN Multiple keys request during rehashing of slot": "TRYAGAIN",
    "MOVED 866 127.0.0.1:7001": "MOVED",
    "ASK 866 127.0.0.1:7001": "ASK",
    "CROSSSLOT Keys in request don't hash to the same slot": "CROSSSLOT",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)": "UNBLOCKED",
    "UNBLOCKED the stream key no longer exists": "NOGROUP",
    "NOGROUP No such key 'orders' or consumer group 'g' in XREADGROUP with GROUP option": "NOGROUP",
    "NOSCRIPT No matching script. Please use EVAL.": "NOSCRIPT",
    "WRONGTYPE Operation against a key holding the wrong kind of value": "WRONGTYPE",
    "NOPERM this user has no permissions to run the 'xadd' command": "NOPERM",
    "ERR ACL failure in script: User has no permissions to run the 'xadd' command": "NOPERM",
    "ERR The user executing the script can't run this command or subcommand": "NOPERM",
    "NOAUTH Authentication required.": "NOAUTH",
    "WRONGPASS invalid username-password pair or user is disabled.": "WRONGPASS",
    "ERR max number of clients reached": "MAXCLIENTS",
    "ERR unknown command 'XFOO'": "ERR",
    "something that no server says": "ERR",
}


@pytest.mark.parametrize("answer", list(ANSWERS))
def test_an_answer_finds_its_row(answer: str) -> None:
    """By its first word, or by what a script wraps."""
    assert error_code(answer) == ANSWERS[answer]
    error = server_error(answer, "asking")
    row = row_of(error)
    assert row is ERRORS[ANSWERS[answer]]
    assert isinstance(error, row.kind)
    assert answer in str(error)


def test_every_row_is_met() -> None:
    """By an answer of a server, or by an error that we find ourselves."""
    found = {
        row_of(error).code
        for error in (NotConnectedError("x"), AccessDeniedError("x"), UnsupportedServerError("x"))
    }
    assert set(ERRORS) == set(ANSWERS.values()) | found


def test_errors_without_an_answer_have_a_row_by_their_kind() -> None:
    """What Millstream raises by itself."""
    assert row_of(NoSuchGroupError("x")).member is Reaction.REJOIN
    assert row_of(WrongKeyTypeError("x")).member is Reaction.END
    assert row_of(ServerRefusedError("x")).code == "ERR"


def test_what_waiting_mends_ends_nobody() -> None:
    """Whatever a producer sends again, a member waits out, and the other way round but for what is unknown."""
    for row in ERRORS.values():
        waits = {Reaction.WAIT, Reaction.ELSEWHERE}
        assert row.producer not in waits or row.member in waits, row.code
        assert row.member not in waits or row.producer in waits or row.code == "ERR", row.code
        if row.kind is ServerRefusedError:
            error = server_error(f"{row.code} said so")
            assert isinstance(error, ServerRefusedError) and error.passing == (row.producer in waits)
