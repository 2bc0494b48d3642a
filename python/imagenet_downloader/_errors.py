"""The exceptions: why a batch could not run. Classes that fail are no exceptions but data, in
`Stats.failures`."""


class DownloadError(RuntimeError):
    """A batch could not run, or not to its end. Completed classes stay, and the same call continues
    with the rest."""


class CsvError(DownloadError, ValueError):
    """The CSV file cannot be read, has no `wnid` column, or has no valid row."""


class OptionError(DownloadError, ValueError):
    """A parameter has a value that cannot be used."""


class TargetError(DownloadError):
    """The target folder cannot be used, or failed during the batch, for example because the disk
    is full."""


class OriginError(DownloadError):
    """The origin refuses every class in the same way, for example because of a wrong URL or a
    missing login; or no connection to it can be prepared."""


class ForkError(DownloadError):
    """The process was made by `fork()` after its parent had begun a download. It lacks the threads
    of its parent."""
