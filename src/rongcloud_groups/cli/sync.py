"""``rongcloud-groups sync``: the profiles of a file of IDs, into a file or a database."""

from rongcloud_groups.cli.console import say
from rongcloud_groups.cli.exit import Context, ShowHelp, run_command
from rongcloud_groups.cli.options import ConnectionOptions, SyncOptions
from rongcloud_groups.errors import ConfigError, RongCloudError


def sync(
    options: SyncOptions = SyncOptions(),  # noqa: B008  frozen
    *,
    connection: ConnectionOptions = ConnectionOptions(),  # noqa: B008  frozen
) -> int:
    """Look up every ID of a file into a file or a database; run it again to resume where it stopped.

    The credentials come from the environment, as for get. Rows come in the order of the input, each distinct ID
    once. Stopped or killed at any moment, the same command resumes from its last checkpoint; Ctrl-C and SIGTERM let
    the requests under way end first, and a second one stops at once. IDs that failed are noted in OUT.failed.jsonl.

    Exit codes: 0 done; 1 error; 2 usage, configuration or input; 3 done, but some IDs failed; 4 credentials not
    accepted or service not enabled; 5 stopped by --max-time; 130 and 143 stopped by a signal; 141 the reader of
    stdout has gone.
    """
    if not options.inputs:
        raise ShowHelp("sync")

    def work(context: Context) -> int:
        from rongcloud_groups.bulk.errors import OutputLost
        from rongcloud_groups.cli.sync_job import check, run_job

        check(options)
        max_seconds = options.max_seconds
        try:
            return context.run(run_job(options, connection, context), max_seconds=max_seconds)
        except KeyboardInterrupt:  # before there was a job to stop
            message = "stopped before anything was asked"
            say(message, {"message_type": "note", "message": message}, in_json=options.speaks_json)
            raise
        except (RongCloudError, OSError) as error:
            if not isinstance(error, ConfigError | BrokenPipeError | OutputLost) and options.path is not None:
                error.add_note("what was done is saved, the same command resumes there")
            raise

    return run_command(work, debug=options.debug, in_json=options.speaks_json)
