"""Whose fault a failure is. The failure file opens with the word in quotes.

Stopped                          not a fault: the platform or a person asked the job to end
PeersEnding                      not this host's fault: the job is ending on another
ToolkitError                     "toolkit"    ours; so is any exception outside this tree
├── JobDescriptionError          "job"        configuration, hyperparameters, names of files and places
├── SourceError                  "job"        the user's code could not be fetched or unpacked
├── ResultError                  "job"        a result file could not be written whole
├── ClusterError                 "cluster"    a host never came, or is gone
└── UserCodeError                "user code"
    ├── InstallRequirementsError              a requirement could not be installed
    ├── InstallModuleError                    the user's package could not be installed
    └── ExecuteUserScriptError                the script could not be started; its own end is an Exit, not an exception
"""

from __future__ import annotations

from tf_toolkit import contract


class ToolkitError(Exception):
    """A failure that is explained by its message alone: what was found, where, and the remedy."""

    fault = "toolkit"
    exit_code = contract.TOOLKIT_FAULT

    def __init__(self, message: str, details: str = "") -> None:
        """``message`` is one line; ``details`` (a tool's last output) may be many."""
        super().__init__(message)
        self.details = details


class JobDescriptionError(ToolkitError):
    fault = "job"
    exit_code = contract.JOB_DESCRIPTION_WRONG


class SourceError(ToolkitError):
    fault = "job"
    exit_code = contract.SOURCE_UNAVAILABLE


class ResultError(ToolkitError):
    fault = "job"
    exit_code = contract.RESULT_NOT_WRITTEN


class ClusterError(ToolkitError):
    fault = "cluster"
    exit_code = contract.CLUSTER_FAILED


class UserCodeError(ToolkitError):
    fault = "user code"


class InstallRequirementsError(UserCodeError):
    exit_code = contract.INSTALL_FAILED


class InstallModuleError(UserCodeError):
    exit_code = contract.INSTALL_FAILED


class ExecuteUserScriptError(UserCodeError):
    exit_code = contract.NOT_EXECUTABLE


class Stopped(BaseException):
    """A stop was asked for. Not an Exception, so that no library's ``except Exception`` swallows it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


class PeersEnding(BaseException):
    """The job is ending, for something on another host. Not an Exception, as Stopped is none."""
