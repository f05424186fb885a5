"""The error codes by which the server refuses a command, under the names of the server's own list."""

from enum import IntEnum

from sessions.store.driver_errors import NO_COLLECTION


class Code(IntEnum):
    """What the tool tells apart: https://www.mongodb.com/docs/v6.0/reference/error-codes/."""

    UNAUTHORIZED = 13
    AUTHENTICATION_FAILED = 18
    NAMESPACE_NOT_FOUND = NO_COLLECTION
    INDEX_NOT_FOUND = 27
    MAX_TIME_MS_EXPIRED = 50
    INDEX_ALREADY_EXISTS = 68
    UNKNOWN_REPL_WRITE_CONCERN = 79
    INDEX_OPTIONS_CONFLICT = 85
    INDEX_KEY_SPECS_CONFLICT = 86
    CANNOT_SATISFY_WRITE_CONCERN = 100
    CONFLICTING_OPERATION_IN_PROGRESS = 117
    INDEX_BUILD_ABORTED = 276
    UNSATISFIABLE_COMMIT_QUORUM = 278
    CANNOT_CONVERT_INDEX_TO_UNIQUE = 359
    DUPLICATE_KEY = 11000
