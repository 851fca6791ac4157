"""``rongcloud-groups emulate``: the service on loopback, for a first look and for tests."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from rongcloud_groups.cli.exit import Context, ExitCode, Flag, run_command
from rongcloud_groups.errors import ConfigError


def emulate(
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    fault: Annotated[list[str] | None, Parameter(negative=())] = None,
    rate: int = 100,
    window: Literal["sliding", "fixed", "bucket"] = "sliding",
    count_refused: Flag = False,
    retry_after: float | None = None,
    other: float = 0.0,
    latency: float = 0.0,
    latency_tail: float = 0.0,
    groups: Path | None = None,
    listed: int = 0,
    unknown: float = 0.1,
    seed: int = 0,
    ca_file: Path | None = None,
    tls: bool = True,
    http2: bool = True,
    debug: Flag = False,
) -> int:
    """Run the service on this machine until Ctrl-C; print the environment variables to set, and a report at the end.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        fault: What goes wrong, such as rst=1% or storm=10-20; may be given again. A wrong one lists them all.
        rate: Requests per second that are let in; 0 lifts the limit.
        window: How they are counted.
        count_refused: Refused requests count as well.
        retry_after: Seconds in the Retry-After of a refusal.
        other: Requests per second of another consumer of the App Key.
        latency: Seconds before each answer.
        latency_tail: Mean of an exponential addition to it, in seconds.
        groups: A file with all the groups, one JSON object a line; without it they are made up from their ID.
        listed: How many made-up groups the listing has.
        unknown: Share of the IDs, 0 to 1, that name no group.
        seed: Another one makes other groups, and draws other faults.
        ca_file: Where to write the certificate to trust; a temporary file by default.
        tls: Speak TLS, or HTTP/1.1 in the clear.
        http2: Offer HTTP/2, or HTTP/1.1 alone.
        debug: Show the traceback of an error.
    """

    def work(context: Context) -> int:
        require_emulator()
        from rongcloud_groups.emulator import Emulator, Faults, OtherConsumer, Service, Universe, serve

        try:
            faults = Faults.parse(fault or [], seed=seed)
            universe = Universe.from_jsonl(groups) if groups else Universe(seed, unknown_share=unknown, listed=listed)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        service = Service(
            universe=universe,
            faults=faults,
            limit=rate or None,
            window=window,
            count_refused=count_refused,
            retry_after=retry_after,
            other=OtherConsumer(rate=other) if other else None,
            latency=latency,
            latency_tail=latency_tail,
            seed=seed,
        )
        context.interruption.run(serve(Emulator(service, host=host, port=port, tls=tls, http2=http2), ca_file=ca_file))
        return ExitCode.DONE

    return run_command(work, debug=debug)


def require_emulator() -> None:
    """Do nothing where the emulator can run.

    Raises:
        ConfigError: what it needs is not installed.
    """
    try:
        import trustme  # noqa: F401  to see whether it is there
    except ModuleNotFoundError:
        raise ConfigError("the emulator needs its extra: pip install 'rongcloud-groups[emulator]'") from None
