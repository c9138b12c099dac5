"""Every error that DriftDetector raises on purpose.

::

    DriftDetectorError
    ├── ConfigError          a setting or a TOML file says something that cannot work
    ├── BundleError          a model bundle is damaged or does not fit the channels
    ├── BrokerError          Kafka cannot be reached, or refuses what is asked of it
    │   └── TopicError       a topic is missing or differs from its declaration
    ├── StateError           a changelog row or snapshot cannot be read back exactly
    ├── PartialError         a drift partial is damaged, or of another version or reference
    ├── RecordingError       a recording cannot be read or written
    ├── GapError             records between state and input are missing; a new start mends it
    ├── FencedError          another worker has taken over; this one must stop
    ├── StalledError         something in the worker stands still; it must be started anew
    └── OnlineStoreError     the online store cannot be reached or used; scoring does not need it

Each message is one sentence (or two) a person can act on: which key or file,
what is wrong, what to write or do instead. The command line prints it without a
traceback and exits with :attr:`DriftDetectorError.exit_code`.
"""

from __future__ import annotations


class DriftDetectorError(Exception):
    """Base of all expected errors.

    Attributes:
        exit_code: what the process exits with when nothing handles the error;
            the numbers follow ``sysexits.h``.
    """

    exit_code = 70


class ConfigError(DriftDetectorError):
    """A setting or configuration file is wrong; nothing was started."""

    exit_code = 78


class BundleError(DriftDetectorError):
    """A model bundle was refused."""

    exit_code = 65


class BrokerError(DriftDetectorError):
    """The Kafka cluster cannot be reached or refused a request."""

    exit_code = 69


class TopicError(BrokerError):
    """A topic is missing or is not what its declaration says."""


class StateError(DriftDetectorError):
    """State read from a changelog or snapshot is not what this version wrote."""

    exit_code = 65


class PartialError(DriftDetectorError):
    """A drift partial cannot be used; the others can."""

    exit_code = 65


class RecordingError(DriftDetectorError):
    """A recording is damaged, or its folder cannot be written; what was finished is complete."""

    exit_code = 74


class GapError(DriftDetectorError):
    """Records between the state and what was fetched are missing; reading again mends it."""


class FencedError(DriftDetectorError):
    """Another worker owns this one's partitions; uncommitted work was discarded."""

    exit_code = 75


class StalledError(DriftDetectorError):
    """The worker does not get on although it should; uncommitted work was discarded."""

    exit_code = 70


class OnlineStoreError(DriftDetectorError):
    """The online store did not answer, or refused what was asked of it."""

    exit_code = 69
